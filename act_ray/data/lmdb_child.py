"""The program that reads an LMDB: `python lmdb_child.py FOLDER CAP`; it imports nothing of act_ray.

A process of its own, since LMDB follows what the file says without much doubt: a damaged or hostile one can lead it
past the end of its memory map, which ends the process. To stdout go the number of entries (8 bytes), and for each the
lengths of its key and value (4 and 8 bytes, little-endian), the key, and the value unless it is longer than CAP.
"""

import os
import struct
import sys

COUNT, LENGTHS = struct.Struct("<Q"), struct.Struct("<IQ")
DATA = "data.mdb"
ENTRY_BYTES = 10  # of the smallest entry: its pointer and its head


def send(folder: str, cap: int) -> None:
    """Write the entries in the order of their keys; raises lmdb.Error."""
    import lmdb

    # Without its lock file, which a folder that is not ours may not let us write.
    with lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False) as environment:
        needed, there = environment.info()["last_pgno"] + 1, os.path.getsize(os.path.join(folder, DATA))
        if needed * environment.stat()["psize"] > there:
            raise lmdb.CorruptedError(f"cut short at {there:,} bytes")
        count = environment.stat()["entries"]
        if count > there // ENTRY_BYTES:
            raise lmdb.CorruptedError(f"says {count:,} entries in {there:,} bytes")
        out = sys.stdout.buffer
        out.write(COUNT.pack(count))
        out.flush()
        with environment.begin(buffers=True) as transaction:
            for number, (key, value) in enumerate(transaction.cursor()):
                if number == count:  # pages that point at each other would never end
                    raise lmdb.CorruptedError(f"has more than the {count:,} entries that it says")
                out.write(LENGTHS.pack(len(key), len(value)))
                out.write(key)
                out.write(value if len(value) <= cap else b"")
        out.flush()


def main() -> int:
    """Exit code 1, with a line on stderr, for a file that LMDB refuses."""
    import lmdb

    try:
        send(sys.argv[1], int(sys.argv[2]))
    except lmdb.Error as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
