"""Settings of a worker of reward servers, for tests of the server's side of it that start no process."""

from rft_reward.worker_process import WorkerSettings

SETTINGS = WorkerSettings(
    terms=[{}, {}], function_name="f", memory="64Mi", memory_bytes=64 << 20, needs_libraries=False, folder="/",
    hidden_file=None, readable=[], runs_code=True, code_path=[], code_imports=[], companions=0,
)  # fmt: skip
