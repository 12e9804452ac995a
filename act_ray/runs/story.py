"""A run's events in words, for the terminal and the page."""

from act_ray.runs.rows import Row
from act_ray.settings import in_words


def tell(row: Row) -> str:
    """An event of events.jsonl as a sentence."""
    match row["event"]:
        case "started":
            return f"started with {row['workers']} worker(s)"
        case "resumed":
            return f"resumed from step {row['step']:,} with {row['workers']} worker(s)"
        case "note":
            return str(row["text"])
        case "signature":
            return (
                f"step {row['step']:,}: {row['signature']}: {row['message']}; the run goes on while its score improves"
            )
        case "confirmed":
            return f"step {row['confirmed']:,}: {row['signature']} confirmed: {row['because']}"
        case "rescued":
            return f"rescued: back to step {row['back_to']:,}, with {in_words(row['changes'])}"
        case "stopped":
            return f"saved at step {row['step']:,} and stopped, as it was asked to"
        case what:
            return f"{what} at step {row['step']:,}" + (f" ({row['prune']['signature']})" if row.get("prune") else "")
