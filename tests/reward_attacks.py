"""The attacks of reward code, what each would do, and by what it is contained: the table of docs/security.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One function of attack_code.py."""

    name: str
    does: str
    by: str
    """The sentence that says by what it is contained."""
    says: tuple[str, ...] = ("Error",)
    """What the sample's error says: one of these."""
    alone: bool = False
    """Whether it speaks for its whole batch, as a handler may: it then is in one of its own."""
    succeeds_without: bool = False
    """Whether it succeeds where the kernel grants no layer: the proof that it is real."""


DENIED = ("PermissionError", "FileNotFoundError", "ProcessLookupError")
LIMITS = "Limits that only a privileged process could raise"
TOGETHER = "The server looks at the memory of a worker's processes together, ten times a second, and ends the worker"
CLOCK = "The server's clock: the worker is interrupted after spec.timeout, and killed half a second later"
FILES = "Landlock: no file outside of Python's and the system's folders can be opened, listed, linked, moved or made"
SIGNALS = "A namespace without other processes, or Landlock's scope of signals"
SOCKETS = "The filter of system calls: no sockets of any family, and Landlock closes TCP and abstract names once more"
FILTER = "The filter of system calls"
NEW_CALLS = "The filter of system calls: newer ones than those of Linux 6.12 are refused, as an older kernel would"
SECRECY = "The server is not dumpable, and Landlock keeps a worker from looking into processes that are not its own"
STRAYS = "The server counts a worker's processes after each batch and ends those that are too many, with the worker"
NUMBERS = "The server accepts finite numbers of JSON only; nothing that a worker says is more than data"
NONCE = "Answers carry a number that is fresh for each batch, and rows count for the ids of their own batch only"

ATTACKS = [
    # Using up what there is.
    Attack("fork_bomb", "starts processes without end", f"{LIMITS}: 64 processes and threads.", ("more than",)),
    Attack("memory", "takes memory without end", f"{LIMITS}: the address space of each process.", ("more than 256Mi",)),
    Attack("memory_of_many_processes", "takes memory in many processes", f"{TOGETHER}.", ("together",)),
    Attack(
        "memory_behind_threads_that_have_ended",
        "takes memory in processes whose first thread has ended",
        f"{TOGETHER}.",
        ("together",),
    ),
    Attack("shared_memory_of_many_processes", "takes shared memory in many processes", f"{TOGETHER}.", ("together",)),
    Attack(
        "memory_outside_the_limit",
        "takes memory that counts as files",
        f"{FILTER}: memfd_create.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "pairs_with_large_buffers",
        "takes memory of the kernel that pairs of sockets hold",
        f"{FILTER}: options of sockets.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "pairs_that_receive_much",
        "takes it on the receiving side",
        f"{FILTER}: options of sockets.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "pairs_with_a_program",
        "has the kernel run a program for each message",
        f"{FILTER}: options of sockets.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "pipes_with_large_buffers",
        "takes memory of the kernel that pipes hold",
        f"{FILTER}: the size of a pipe.",
        DENIED,
    ),
    Attack(
        "locks_of_files",
        "takes memory of the kernel that locks of files hold",
        "The server looks at the kernel's list of locks ten times a second, and ends a worker that has over 4,096.",
        ("locks of files",),
    ),
    Attack(
        "locks_of_a_descriptor",
        "takes locks that name no process",
        f"{FILTER}: fcntl.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "locks_of_the_dead",
        "shares its descriptors with a process that may end before it",
        f"{FILTER}: clone with CLONE_FILES and without CLONE_THREAD.",
        DENIED,
        succeeds_without=True,
    ),
    Attack("timers", "takes timers without end", f"{LIMITS}: 256 signals and timers.", ("BlockingIOError",)),
    Attack(
        "pages_that_pipes_hold",
        "takes huge pages, and leaves them to pipes",
        f"{FILTER}: vmsplice.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "rings_for_files",
        "takes all rings for asynchronous files that the machine has",
        f"{FILTER}: io_setup.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "rules_of_landlock",
        "takes memory of the kernel that rules of Landlock hold",
        f"{FILTER}: Landlock, which only workers need that start completions.",
        DENIED,
    ),
    Attack(
        "pairs_of_many_processes",
        "takes memory of the kernel in many processes",
        f"{TOGETHER}. The sockets of its network count with what they can hold; without namespaces, the pod's limit.",
        ("together", "more than"),
    ),
    Attack(
        "shared_memory_that_stays",
        "leaves shared memory behind",
        f"{FILTER}: System V's shared memory and queues.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "shared_memory_without_a_file",
        "takes shared memory",
        f"{LIMITS}: the address space.",
        (*DENIED, "OSError", "more than 256Mi"),
    ),
    Attack("processor", "computes without end", f"{CLOCK}.", ("more than", "processor time")),
    Attack("processor_deaf_to_signals", "ignores signals and exceptions", f"{CLOCK}.", ("more than",)),
    Attack("lift_the_limits", "raises its own limits", f"{LIMITS}.", ("ValueError",)),
    Attack(
        "endless_output",
        "prints without end",
        "The server reads all of it and keeps 4 KiB a batch.",
        ("more than", "processor time"),
    ),
    Attack(
        "endless_errors",
        "prints errors without end",
        "The server reads all of it and keeps 4 KiB a batch.",
        ("more than", "processor time"),
    ),
    Attack("deep_recursion", "recurses without end", "Python's own limit.", ("RecursionError",)),
    Attack(
        "recursion_without_a_limit",
        "recurses past the stack",
        "It is a process of its own that crashes; the server starts another.",
        ("SIGSEGV", "RecursionError", "more than"),
    ),
    Attack("descriptors", "opens files without end", f"{LIMITS}: 128 descriptors.", ("OSError",)),
    Attack(
        "fill_the_scratch_folder",
        "fills the disk",
        "The scratch folder is a file system of 64 MiB, or the server looks at its size ten times a second.",
        ("No space left", "more than"),
    ),
    Attack(
        "a_million_files",
        "makes files without end",
        "The scratch folder holds 4096 files: as a file system of its own, or by the server's look.",
        ("No space left", "more than"),
    ),
    Attack("one_big_file", "writes one big file", f"{LIMITS}: 16 MiB a file.", ("File too large",)),
    Attack(
        "folders_as_deep_as_can_be",
        "nests folders so that they cannot be removed",
        "The server removes them step by step, without recursion or long paths.",
        ("ended its process", "wrote more than", "more than"),
    ),
    # Reaching the server and other workers.
    Attack("kill_the_server", "kills the server", f"{SIGNALS}.", DENIED),
    Attack("kill_the_parent", "kills its parent", f"{SIGNALS}.", (*DENIED, "nothing happened")),
    Attack("kill_the_servers_group", "kills the server's process group", f"{SIGNALS}.", DENIED),
    Attack("kill_everybody", "kills everything that it may", f"{FILTER}: kill(-1).", DENIED),
    Attack(
        "kill_through_a_descriptor", "kills the server by a descriptor of it", f"{SIGNALS}; and the filter.", DENIED
    ),
    Attack(
        "kill_through_the_owner_of_a_pipe",
        "has the kernel kill the server when a pipe is written",
        f"{SIGNALS}; and the filter.",
        DENIED,
    ),
    Attack(
        "kill_through_the_owner_of_a_socket",
        "has the kernel kill the server when a socket is written",
        f"{SIGNALS}; and the filter.",
        DENIED,
    ),
    Attack("kill_a_thread_of_the_server", "kills a thread of the server", f"{SIGNALS}; and the filter.", DENIED),
    Attack("limit_the_server", "takes the server's descriptors away", f"{FILTER}: limits of other processes.", DENIED),
    Attack("starve_the_server", "lowers the server's priority", f"{FILTER}: priorities of other processes.", DENIED),
    Attack(
        "trace_the_server",
        "attaches to the server as a debugger",
        f"{FILTER}: ptrace. {SECRECY}.",
        DENIED,
    ),
    Attack("trace_the_parent", "attaches to its parent as a debugger", f"{FILTER}: ptrace. {SECRECY}.", DENIED),
    Attack(
        "read_the_servers_memory_by_a_call",
        "reads the server's memory",
        f"{FILTER}: process_vm_readv. {SECRECY}.",
        DENIED,
    ),
    Attack("read_the_servers_memory", "reads the server's memory from /proc", f"{SECRECY}.", DENIED),
    Attack(
        "read_the_servers_environment", "reads the server's environment", f"{SECRECY}.", DENIED, succeeds_without=True
    ),
    Attack(
        "read_the_servers_descriptors", "lists the server's open files", f"{SECRECY}.", DENIED, succeeds_without=True
    ),
    Attack(
        "read_the_own_environment",
        "looks for secrets in its own environment",
        "A worker starts with an empty environment.",
        ("no secret", *DENIED),
    ),
    Attack(
        "read_the_token",
        "reads the bearer token",
        f"{FILES}; a namespace hides the file, too.",
        ("it is empty", *DENIED),
        succeeds_without=True,
    ),
    Attack("read_the_manifest", "reads the function's manifest", f"{FILES}.", DENIED, succeeds_without=True),
    Attack(
        "see_other_processes",
        "lists other processes",
        "A /proc of its own, or Landlock.",
        ("there are none", *DENIED),
        succeeds_without=True,
    ),
    Attack(
        "look_at_other_workers",
        "lists the scratch folders of other workers",
        f"{FILES}.",
        DENIED,
        succeeds_without=True,
    ),
    Attack(
        "read_other_workers_memory", "reads the memory of other workers", f"{SECRECY}.", DENIED, succeeds_without=True
    ),
    Attack("kill_other_workers", "kills other workers", f"{SIGNALS}.", DENIED, succeeds_without=True),
    # Files.
    Attack(
        "write_outside",
        "writes into folders that are open to everybody",
        f"{FILES}.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack(
        "read_other_peoples_files", "reads files that are open to everybody", f"{FILES}.", DENIED, succeeds_without=True
    ),
    Attack(
        "change_other_peoples_files",
        "changes files that are open to everybody",
        f"{FILES}.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack(
        "truncate_other_peoples_files",
        "empties files by their path",
        f"{FILES}.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack("remove_other_peoples_files", "removes files", f"{FILES}.", (*DENIED, "Read-only"), succeeds_without=True),
    Attack("write_to_a_package", "changes the packages that it imports", f"{FILES}.", (*DENIED, "Read-only")),
    Attack("read_through_a_package", "reads files with numpy", f"{FILES}.", DENIED, succeeds_without=True),
    Attack(
        "map_through_a_package", "maps files with numpy", f"{FILES}.", (*DENIED, "Read-only"), succeeds_without=True
    ),
    Attack(
        "unpickle_through_a_package",
        "opens files while numpy unpickles an array",
        f"{FILES}.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack("call_c_through_a_package", "calls C with numpy", f"{FILES}.", DENIED, succeeds_without=True),
    Attack(
        "publish_other_peoples_files",
        "opens files to everybody",
        "A read-only view, or the filter of system calls: modes, owners, times and attributes.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack(
        "touch_other_peoples_files",
        "changes the times of files",
        "A read-only view, or the filter of system calls: modes, owners, times and attributes.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack(
        "tag_other_peoples_files",
        "gives files an attribute, by a new call",
        f"{NEW_CALLS}.",
        ("not implemented",),
        succeeds_without=True,
    ),
    Attack(
        "untag_other_peoples_files",
        "takes an attribute from files, by a new call",
        f"{NEW_CALLS}.",
        ("not implemented",),
        succeeds_without=True,
    ),
    Attack(
        "mark_other_peoples_files",
        "marks files as not to be saved, by a new call",
        f"{NEW_CALLS}.",
        ("not implemented",),
    ),
    Attack(
        "look_at_the_marks_of_files",
        "looks at the marks of files, by a new call",
        f"{NEW_CALLS}.",
        ("not implemented",),
    ),
    Attack(
        "symbolic_link",
        "reaches files through a symbolic link",
        f"{FILES}; what counts is the file, not its path.",
        (*DENIED, "Read-only"),
        succeeds_without=True,
    ),
    Attack("hard_link", "takes a second name for a file", f"{FILES}.", (*DENIED, "Read-only", "cross-device")),
    Attack("move_files_in", "moves a file into its own folder", f"{FILES}.", (*DENIED, "Read-only", "cross-device")),
    Attack(
        "dots", "climbs out by `..`", f"{FILES}; what counts is the file, not its path.", DENIED, succeeds_without=True
    ),
    Attack(
        "files_through_own_descriptors",
        "climbs out through a descriptor of its folder",
        f"{FILES}; what counts is the file, not its path.",
        DENIED,
        succeeds_without=True,
    ),
    Attack("device_node", "makes the node of a disk", "No capabilities, and Landlock.", DENIED),
    Attack(
        "program_of_another_user",
        "runs a setuid program",
        "no_new_privs: such programs run as the caller.",
        ("as this user", "CalledProcessError", *DENIED),
    ),
    Attack("core_dump", "dumps its memory into a file", f"{LIMITS}: no core files.", ("SIGABRT",)),
    # The network.
    Attack("tcp", "sends by TCP", f"{SOCKETS}.", DENIED, succeeds_without=True),
    Attack("tcp_listener", "listens on a port", f"{SOCKETS}.", DENIED, succeeds_without=True),
    Attack("udp", "sends by UDP", f"{SOCKETS}.", DENIED, succeeds_without=True),
    Attack("dns", "asks a name server, with the secret in the name", f"{SOCKETS}.", (*DENIED, "gaierror")),
    Attack("unix_socket", "sends to a Unix socket in the file system", f"{SOCKETS}.", DENIED, succeeds_without=True),
    Attack("abstract_unix_socket", "sends to an abstract Unix socket", f"{SOCKETS}.", DENIED, succeeds_without=True),
    Attack(
        "a_pair_of_sockets_turned_elsewhere",
        "makes a pair of sockets and sends from one to a third",
        f"{FILTER}: pairs are of streams only; connect, and sending to an address, are refused.",
        DENIED,
        succeeds_without=True,
    ),
    Attack("raw_sockets", "opens raw, kernel and virtual-machine sockets", f"{SOCKETS}.", DENIED),
    Attack("ring_of_requests", "opens sockets by io_uring", f"{FILTER}: io_uring.", DENIED),
    Attack(
        "inherited_sockets",
        "looks for open sockets of the server",
        "A worker inherits its two pipes and the log, nothing else.",
        ("there are none",),
    ),
    # The kernel.
    Attack(
        "user_namespace", "becomes root of a namespace", f"{FILTER}: unshare, clone with namespaces, clone3.", DENIED
    ),
    Attack(
        "child_of_the_server",
        "makes its child a child of the server",
        f"{FILTER}: clone with CLONE_PARENT.",
        DENIED,
        succeeds_without=True,
    ),
    Attack("mount", "mounts a file system", f"{FILTER}: mount.", DENIED),
    Attack("tree_with_attributes", "takes a copy of the mounts, by a new call", f"{NEW_CALLS}.", ("not implemented",)),
    Attack("look_at_mounts", "lists the mounts", f"{FILTER}: listmount.", DENIED, succeeds_without=True),
    Attack("calls_of_tomorrow", "tries system calls that nobody knows yet", f"{NEW_CALLS}.", ("there are none",)),
    Attack("keys_of_the_kernel", "reads the kernel's keys", f"{FILTER}: keyctl.", DENIED),
    Attack("performance_events", "measures other processes", f"{FILTER}: perf_event_open.", DENIED),
    Attack("programs_in_the_kernel", "loads programs into the kernel", f"{FILTER}: bpf.", DENIED),
    Attack("page_faults_by_hand", "stops the kernel at a page", f"{FILTER}: userfaultfd.", DENIED),
    Attack(
        "watch_files",
        "watches what others do with files",
        f"{FILTER}: inotify and fanotify.",
        DENIED,
        succeeds_without=True,
    ),
    Attack("watch_folders", "watches folders by a signal", f"{FILTER}: fcntl.", DENIED),
    Attack(
        "hold_up_those_who_open_a_file", "takes a lease of a file, so that others wait", f"{FILTER}: fcntl.", DENIED
    ),
    Attack(
        "write_the_disks",
        "has everybody's files written to the disk",
        f"{FILTER}: sync and syncfs.",
        DENIED,
        succeeds_without=True,
    ),
    Attack("become_readable_to_others", "makes itself dumpable", f"{FILTER}: prctl.", DENIED, succeeds_without=True),
    Attack(
        "disown_orphans", "lets its orphans go to another parent", f"{FILTER}: prctl.", DENIED, succeeds_without=True
    ),
    Attack("lift_no_new_privileges", "lifts no_new_privs", "The kernel: it cannot be lifted.", ("OSError",)),
    Attack("become_root", "becomes root", "No capabilities.", DENIED),
    # Staying.
    Attack(
        "background_process",
        "leaves a process behind, by a double fork in a session of its own",
        f"{STRAYS}.",
        ("it is there",),
    ),
    Attack(
        "background_process_that_is_hidden",
        "leaves a process behind, and has the worker not see it",
        f"{STRAYS}.",
        ("it is there",),
    ),
    Attack(
        "background_process_behind_a_thread_that_has_ended",
        "leaves a process behind whose first thread has ended",
        f"{STRAYS}. It looks at all threads.",
        ("it is there",),
    ),
    Attack(
        "background_processes_that_take_turns",
        "leaves processes behind that each start the next one and end",
        f"{STRAYS}. Nobody else starts processes then, so a new one is one of these.",
        ("it is there",),
    ),
    Attack(
        "background_thread",
        "leaves a thread behind that writes to all descriptors",
        f"{NONCE}; a worker that says something else is replaced.",
        ("it is there", "garbled"),
    ),
    # The harness.
    Attack(
        "leave", "ends the process as if all were well", "Without an answer there is no score.", ("ended its process",)
    ),
    Attack(
        "leave_by_an_exception",
        "exits with an answer as the message",
        "The exception's text is an error's text.",
        ("must return",),
    ),
    Attack("end_when_python_ends", "answers when Python ends", f"{NONCE}.", ("must return", "garbled")),
    Attack("garble_the_pipe", "writes an answer to all descriptors", f"{NONCE}.", ("garbled",)),
    Attack(
        "close_the_pipes",
        "closes all descriptors",
        "Without an answer there is no score; the worker is replaced.",
        ("closed file descriptors",),
    ),
    Attack(
        "forge_the_answer",
        "finds the batch's number and answers for samples of others",
        f"{NONCE}.",
        ("no row with this id", "ended its process"),
        alone=True,
    ),
    Attack(
        "a_frame_of_four_gigabytes",
        "announces an answer of 4 GiB",
        "The server reads no answer of more than 64 MiB.",
        ("more than 64 MiB",),
    ),
    Attack(
        "break_the_harness",
        "replaces the worker's functions",
        "What decides runs in the server: a worker that fails is replaced.",
        ("ended its process", "Exit", "broken"),
    ),
    Attack(
        "empty_the_modules",
        "removes Python's modules",
        "What decides runs in the server: a worker that fails is replaced.",
        ("Error", "ended its process"),
    ),
    Attack(
        "traced_harness",
        "takes the harness over by a tracing function",
        "What decides runs in the server: a worker that fails is replaced.",
        ("ended its process", "Exit"),
    ),
    # What is returned.
    Attack("not_a_number", "returns NaN", f"{NUMBERS}.", ("not a finite number",)),
    Attack("infinity", "returns infinity", f"{NUMBERS}.", ("not a finite number",)),
    Attack("huge_number", "returns a number of 400 digits", f"{NUMBERS}.", ("not a finite number",)),
    Attack("number_that_pretends", "returns an object that equals everything", f"{NUMBERS}.", ("not a finite number",)),
    Attack(
        "object_to_unpickle", "returns an object that runs a command when it is unpickled", f"{NUMBERS}.", ("not JSON",)
    ),
    Attack("pickled_bytes", "returns pickled bytes", f"{NUMBERS}.", ("not JSON",)),
    Attack(
        "nested_answer", "returns 100,000 nested lists", f"{NUMBERS}.", ("not JSON", "list, not a number", "garbled")
    ),
    Attack("nested_metrics", "returns nested metrics", f"{NUMBERS}.", ("an object, not a number",)),
    Attack(
        "answer_without_end",
        "returns 70 MiB",
        "The server reads no answer of more than 64 MiB.",
        ("more than",),
    ),
    Attack("text_as_a_number", "returns a number as text", f"{NUMBERS}.", ("a string, not a number",)),
    Attack("yes_as_a_number", "returns `True`", f"{NUMBERS}.", ("a boolean, not a number",)),
    Attack(
        "score_of_another_sample", "returns a row for a sample of another batch", f"{NONCE}.", ("no row with this id",)
    ),
    Attack(
        "forged_log",
        "writes lines that look like the server's into its log",
        "Texts of code are escaped before they are logged.",
        ("forged line",),
    ),
]
