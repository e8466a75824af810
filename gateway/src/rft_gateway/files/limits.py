"""Limits of files, each with its reason; those that depend on the disk are settings of the gateway."""

from __future__ import annotations

from typing import Final

FIELDS: Final = 16
"""Parts of a form: OpenAI's clients send four at most."""
FIELD_BYTES: Final = 4096
"""Largest field of a form that is not the file: OpenAI's have some bytes."""
ENVELOPE_BYTES: Final = 1 << 20
"""What a form may have beside its file: its fields, their heads and boundaries."""
DOCUMENT_BYTES: Final = 1 << 20
"""Largest body in JSON: the ids of `PARTS` parts take a quarter of it."""
NAME_BYTES: Final = 255
"""Longest name of a file, as on Linux."""
LINE_BYTES: Final = 8 << 20
"""Longest line: the text of a million tokens has 4 MiB. What a line becomes when it is parsed has to fit beside the
gateway."""
LINE_VALUES: Final = 200_000
"""Largest number of values of a line: a value takes up to 100 bytes of memory, and as little as 2 bytes of the line."""
PROBLEMS: Final = 5
"""Lines that an error names: enough to see a pattern."""
PART_BYTES: Final = 64 << 20
"""Largest part of an upload, as at OpenAI; its clients send parts of this size."""
PARTS: Final = 4096
"""Largest number of parts of an upload: parts of 1 MiB for the largest file that one may set."""
UPLOAD_SECONDS: Final = 3600
"""Time after which an upload that was not completed expires, as at OpenAI."""
SHORTEST_LIFE, LONGEST_LIFE = 3600, 2_592_000
"""Seconds after which a file may expire, as at OpenAI: an hour to 30 days."""
LONGEST_LIST: Final = 10_000
"""Files of a page of a list, as at OpenAI, which is also the default."""
TRANSFER_SECONDS: Final = 3600.0
"""Time for the whole body of a file: 1 GiB at 300 KiB a second."""
SILENCE_SECONDS: Final = 60.0
"""Time in which a client may send nothing of its file: as for every other body."""
CHECK_SECONDS: Final = 300
"""Time to check a file: a gibibyte takes a minute on a core that is free, and clients wait ten minutes by default."""
CHECK_MEMORY_BYTES: Final = 1 << 30
"""Address space of the process that checks a file; one with the longest lines takes a fifth of it."""
CHECKS: Final = 2
"""Files that are checked at the same time: each takes a core, as far as the gateway leaves it."""
STORE_SECONDS: Final = 3600
"""Time after which content without a file counts as left over: storing it took so long that its gateway has died."""
KEPT_SECONDS: Final = 86_400
"""Time for which an upload that has ended is known, for clients that ask again."""
ENTRY_BYTES: Final = 4096
"""What a file or upload counts for in its namespace beside its content, so that empty ones have a limit, too."""
TRANSFER_BYTES: Final = 1 << 20
"""What a transfer counts for at least in the room for them, so that their number has a limit, too."""
