import sys
from pathlib import Path

# Helpers of these tests only; a package would be called `operator`, which is the standard library's.
sys.path.insert(0, str(Path(__file__).parent))
