#!/usr/bin/env python3
"""The house has floors: a file of lib/ uses only its own floor and those below, and never in a circle.

    test/floors.py [--tree DIR]     checks DIR/lib (default: the tree that this script is in)
    test/floors.py --objects BUILD  checks the symbols of the objects that BUILD has of this tree
    test/floors.py --self-test      shows that made-up bad trees are refused

Prints TAP. Checked are:
  - each quoted include names a file of lib/, on the same floor or a lower one; no circle among them;
  - each room (folder) is one that this script knows;
  - system calls are made behind lib/kernel/ only, and no preprocessor condition decides on a kernel
    elsewhere than in lib/kernel/uapi.h (include guards and what is for C++ aside);
  - public headers include public headers and the system's, nothing else, and nothing of liburing;
  - each .c of lib/ is listed in lib/meson.build, in order, and each that is listed exists.
With --objects (nm tells which object defines a symbol, and which ones ask for it):
  - no object asks for a symbol that is defined on a higher floor;
  - no circle among objects, but for those that CIRCLES names, and these only shrink.
A tree with fewer files or edges than the floors below was not really read, and fails.
"""

import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# '' is the roof: lib/*.c, lib/*.h. The simulated kernel stands above it: it hands a reactor its door,
# and nothing of the library knows of it.
ROOMS = ['base', 'kernel', 'ring', 'pool', 'time', 'conn', 'listen', 'extra', 'roof', 'kernel/sim']
FLOOR_FILES = 30
FLOOR_EDGES = 60
FLOOR_OBJECTS = 50
FLOOR_SYMBOLS = 300

# Sources that ask each other for symbols in a circle. A row may lose names, and go; it gains none.
CIRCLES = [
    ['pool/send_fds.c', 'pool/sends.c'],
    ['conn/clock.c', 'conn/error.c', 'conn/life.c', 'conn/queue.c', 'conn/send.c', 'conn/show.c', 'conn/starve.c',
     'conn/table.c', 'conn/wants.c'],
    ['listen/listener.c', 'listen/backlog.c', 'listen/quota.c'],
]

CALLS = '''socket bind listen accept accept4 connect setsockopt getsockopt getsockname getpeername shutdown
close read write readv writev recv send recvmsg sendmsg mmap munmap madvise clock_gettime eventfd getrlimit
setrlimit prlimit syscall sysconf open openat fcntl poll epoll_wait io_uring_queue_init io_uring_queue_exit
io_uring_setup io_uring_enter io_uring_submit io_uring_submit_and_wait io_uring_wait_cqe
io_uring_register io_uring_enable_rings pthread_create sigaction signal printf getenv'''.split()
CALL = re.compile(r'(?<![\w.>])(' + '|'.join(CALLS) + r')\s*\(')
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)
CONDITION = re.compile(r'^\s*#\s*(?:if|ifdef|ifndef|elif)\b(.*)$', re.M)


def read(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def blank(text):
    """A comment or string keeps its line breaks only, so that line numbers stay."""
    return re.sub(r'[^\n]', ' ', text)


def without_comments(text, strings=False):
    """Comments, and the insides of strings if `strings`, become blanks."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def replace(match):
        is_comment = match.group().startswith('/')
        return blank(match.group()) if is_comment or strings else match.group()
    return token.sub(replace, text)


def line_of(text, offset):
    return text.count('\n', 0, offset) + 1


class Tree:
    def __init__(self, top):
        self.top = top
        self.files = {}  # name below lib/ -> text without comments
        self.edges = {}  # name -> [(line, name included)]
        self.errors = []
        lib = os.path.join(top, 'lib')
        for folder, _, names in os.walk(lib):
            for name in names:
                if name.endswith(('.c', '.h')):
                    path = os.path.join(folder, name)
                    self.files[os.path.relpath(path, lib)] = without_comments(read(path))

    def error(self, name, line, text):
        self.errors.append(f'lib/{name}:{line}: {text}')

    def edge_count(self):
        return sum(len(edges) for edges in self.edges.values())

    def check_rooms(self):
        for name in sorted(self.files):
            if os.path.dirname(name) not in ROOMS:
                self.error(name, 1, f'no such room: {os.path.dirname(name)}/')

    def check_edges(self):
        for name, text in sorted(self.files.items()):
            self.edges[name] = []
            for match in INCLUDE.finditer(text):
                if match.group(1) == '"':
                    self.check_edge(name, line_of(text, match.start(1)), match.group(2))

    def check_edge(self, name, line, target):
        self.edges[name].append((line, target))
        here, there = os.path.dirname(name), os.path.dirname(target)
        if target not in self.files:
            self.error(name, line, f'no such file below lib/: {target}')
        elif here in ROOMS and there in ROOMS and ROOMS.index(there) > ROOMS.index(here):
            self.error(name, line, f'an edge upwards, to {target}')

    def check_circles(self):
        done, path = set(), []

        def visit(name):
            if name in path:
                circle = path[path.index(name):] + [name]
                self.error(name, 1, 'a circle: ' + ' -> '.join(circle))
            if name in done or name in path:
                return
            path.append(name)
            for _, target in self.edges.get(name, []):
                visit(target)
            path.pop()
            done.add(name)

        for name in sorted(self.files):
            visit(name)

    def check_calls(self):
        for name, text in sorted(self.files.items()):
            if name.startswith('kernel/'):
                continue
            code = without_comments(text, strings=True)
            for match in CALL.finditer(code):
                self.error(name, line_of(code, match.start()),
                           f'{match.group(1)}() belongs behind kernel/kernel.h')

    def check_conditions(self):
        for name, text in sorted(self.files.items()):
            if name == 'kernel/uapi.h':
                continue
            for match in CONDITION.finditer(text):
                what = match.group(1).strip()
                if not re.fullmatch(r'KR_\w+', what):
                    self.error(name, line_of(text, match.start(1)),
                               f'#if {what}: differences of kernels are capabilities read at start')

    def check_public(self):
        include = os.path.join(self.top, 'include')
        public = [os.path.join(folder, name) for folder, _, names in os.walk(include)
                  for name in names if name.endswith('.h')]
        for path in sorted(public):
            name, text = os.path.relpath(path, include), without_comments(read(path))
            for match in INCLUDE.finditer(text):
                target, line = match.group(2), line_of(text, match.start(1))
                theirs = target.startswith('kreactor/')
                if match.group(1) == '"' or 'liburing' in target or 'io_uring' in target:
                    self.errors.append(f'include/{name}:{line}: includes {target}')
                elif theirs and not os.path.exists(os.path.join(include, target)):
                    self.errors.append(f'include/{name}:{line}: no such header: {target}')
            for match in re.finditer(r'\bio_uring_\w+|\bstruct io_uring\b', text):
                self.errors.append(f'include/{name}:{line_of(text, match.start())}: '
                                   f'{match.group()} is liburing\'s')
        return len(public)

    def check_sources(self):
        def simulated(name):
            return name.startswith('kernel/sim/')
        self.check_list('meson.build', lambda name: not simulated(name))
        if any(map(simulated, self.files)):
            self.check_list('kernel/sim/meson.build', simulated)

    def check_list(self, where, belongs):
        """The sources that belong to a meson.build are in its list, which names them from its folder."""
        folder = os.path.dirname(where)
        build = read(os.path.join(self.top, 'lib', where))
        listed = [os.path.join(folder, name) for name in re.findall(r"'([\w/]+\.c)'", build)]
        present = sorted(name for name in self.files if name.endswith('.c') and belongs(name))
        for name in present:
            if name not in listed:
                self.error(where, 1, f'{name} is not listed')
        for name in listed:
            if name not in present:
                self.error(where, 1, f'{name} is listed and does not exist')
        if listed != sorted(listed):
            self.error(where, 1, 'the sources are not in order')


def room_of(name):
    return os.path.dirname(name)


class Objects:
    """What the objects of a build define and ask for: source -> symbols."""

    def __init__(self):
        self.defined = {}  # symbol -> source
        self.asked = {}  # source -> symbols
        self.errors = []

    def read(self, build):
        """The objects of sources that are still there: a build keeps those of others, too."""
        folder = os.path.join(build, 'lib', 'libkreactor_internal.a.p')
        for name in sorted(os.listdir(folder)):
            source = self.source_of(name[:-2])
            if name.endswith('.c.o') and os.path.exists(os.path.join(TOP, 'lib', source)):
                self.add(source, self.symbols_of(os.path.join(folder, name)))
        return self

    @staticmethod
    def source_of(name):
        """core_conn_error.c is conn/error.c: meson writes a folder's end as _."""
        room, _, rest = name.partition('_')
        return f'{room}/{rest}' if room in ROOMS else name

    @staticmethod
    def symbols_of(path):
        lines = subprocess.run(['nm', path], check=True, capture_output=True, text=True).stdout
        return [tuple(line.split()[-2:]) for line in lines.splitlines()]

    def add(self, source, symbols):
        asked = self.asked.setdefault(source, set())
        for kind, symbol in symbols:
            if kind == 'U':
                asked.add(symbol)
            elif kind in 'TDBRVW':
                self.defined[symbol] = source

    def edges(self):
        """source -> {source it needs: a symbol}"""
        return {source: {self.defined[symbol]: symbol for symbol in sorted(asked)
                         if self.defined.get(symbol, source) != source}
                for source, asked in self.asked.items()}

    def check_floors(self):
        for source, needs in sorted(self.edges().items()):
            for other, symbol in sorted(needs.items()):
                if ROOMS.index(room_of(other)) > ROOMS.index(room_of(source)):
                    self.errors.append(f'lib/{source} asks upwards, for {symbol} of lib/{other}')

    def check_circles(self):
        edges = self.edges()
        reached = {source: reach(edges, source) for source in edges}
        circles = {frozenset(other for other in reached[source] if source in reached[other])
                   for source in edges if source in reached[source]}
        for circle in sorted(map(sorted, circles)):
            if not any(set(circle) <= set(known) for known in CIRCLES):
                self.errors.append('a circle: ' + ' '.join(circle))
        for known in CIRCLES:
            gone = sorted(name for name in known if not any(name in circle for circle in circles))
            if gone:
                self.errors.append('out of the circle, strike them from CIRCLES: ' + ' '.join(gone))


def reach(edges, start):
    """All that is needed from `start` on, itself only if something there needs it."""
    seen, left = set(), list(edges[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left.extend(edges.get(name, ()))
    return seen


OBJECT_CHECKS = [
    ('symbols_go_down', Objects.check_floors),
    ('symbols_make_no_new_circle', Objects.check_circles),
]

CHECKS = [
    ('every_file_is_in_a_known_room', Tree.check_rooms),
    ('includes_go_down', Tree.check_edges),
    ('includes_make_no_circle', Tree.check_circles),
    ('system_calls_stay_behind_the_door', Tree.check_calls),
    ('no_condition_on_a_kernel', Tree.check_conditions),
    ('public_headers_show_no_liburing', Tree.check_public),
    ('sources_are_listed_in_order', Tree.check_sources),
]


class Tap:
    def __init__(self):
        self.count = self.failed = 0

    def case(self, name, errors):
        self.count += 1
        self.failed += bool(errors)
        print(f'{"not ok" if errors else "ok"} {self.count} - {name}')
        for error in errors:
            print(f'# {error}')

    def end(self, suite, floor):
        print(f'# suite {suite}: ran {self.count} cases, floor {floor}')
        print(f'1..{self.count}')
        return 1 if self.failed or self.count < floor else 0


def check_tree(top):
    tree, tap = Tree(top), Tap()
    for name, check in CHECKS:
        tree.errors = []
        check(tree)
        tap.case(name, tree.errors)
    few = []
    if len(tree.files) < FLOOR_FILES or tree.edge_count() < FLOOR_EDGES:
        few.append(f'read {len(tree.files)} files and {tree.edge_count()} edges; '
                   f'the floors are {FLOOR_FILES} and {FLOOR_EDGES}')
    tap.case('the_tree_was_really_read', few)
    print(f'# {len(tree.files)} files of lib/, {tree.edge_count()} edges')
    return tap.end('floors', len(CHECKS) + 1)


def check_objects(build):
    objects, tap = Objects().read(build), Tap()
    for name, check in OBJECT_CHECKS:
        objects.errors = []
        check(objects)
        tap.case(name, objects.errors)
    few = []
    if len(objects.asked) < FLOOR_OBJECTS or len(objects.defined) < FLOOR_SYMBOLS:
        few.append(f'read {len(objects.asked)} objects and {len(objects.defined)} symbols; '
                   f'the floors are {FLOOR_OBJECTS} and {FLOOR_SYMBOLS}')
    tap.case('the_objects_were_really_read', few)
    print(f'# {len(objects.asked)} objects, {len(objects.defined)} symbols')
    return tap.end('symbols', len(OBJECT_CHECKS) + 1)


# Each made-up tree is this sound one with some files put in or changed, and the complaint it must meet.
SOUND = {
    'include/kreactor.h': '#include <stdint.h>\n#include <kreactor/a.h>\n',
    'include/kreactor/a.h': '#ifndef A\n#define A\n#endif\n',
    'lib/base/list.h': '#ifndef KR_BASE_LIST_H\n#endif\n',
    'lib/kernel/kernel.h': '#include <liburing.h>\n',
    'lib/kernel/linux.c': '#include "kernel/kernel.h"\nint x(void) { return socket(1, 2, 3); }\n',
    'lib/conn/conn.h': '#include "base/list.h"\n/* calls read() */\n',
    'lib/conn/conn.c': '#include "conn/conn.h"\nint y(struct k *k) { return k->close(k); }\n',
    'lib/roof/turn.c': '#include "conn/conn.h"\nconst char *s = "io_uring_enter(";\n',
    'lib/meson.build': "s = [\n 'conn/conn.c',\n 'kernel/linux.c',\n 'roof/turn.c',\n]\n",
}
BAD = [
    ('upward_edge', {'lib/base/list.h': '#include "conn/conn.h"\n'}, 'an edge upwards, to conn/conn.h'),
    ('edge_to_the_roof', {'lib/conn/conn.h': '#include "roof/turn.h"\n', 'lib/roof/turn.h': ''},
     'an edge upwards, to roof/turn.h'),
    ('circle', {'lib/conn/conn.h': '#include "conn/b.h"\n', 'lib/conn/b.h': '#include "conn/conn.h"\n'},
     'a circle: '),
    ('unknown_room', {'lib/attic/old.h': ''}, 'no such room: attic/'),
    ('unknown_file', {'lib/conn/conn.h': '#include "conn.h"\n'}, 'no such file below lib/: conn.h'),
    ('socket_outside', {'lib/conn/conn.c': 'int z(void) { return socket(1, 2, 3); }\n'},
     'lib/conn/conn.c:1: socket() belongs behind'),
    ('enter_outside', {'lib/roof/turn.c': '\n\nint z(void) { return io_uring_enter (1, 2); }\n'},
     'lib/roof/turn.c:3: io_uring_enter() belongs behind'),
    ('condition', {'lib/roof/turn.c': '#ifdef IORING_OP_X\n#endif\n'}, '#if IORING_OP_X'),
    ('liburing_in_public', {'include/kreactor/a.h': '#include <liburing.h>\n'}, 'includes liburing.h'),
    ('ring_type_in_public', {'include/kreactor/a.h': 'struct io_uring_sqe;\n'}, "io_uring_sqe is liburing's"),
    ('source_not_listed', {'lib/conn/more.c': ''}, 'conn/more.c is not listed'),
    ('source_not_there', {'lib/meson.build': "'conn/conn.c', 'gone.c', 'kernel/linux.c', 'roof/turn.c'"},
     'gone.c is listed and does not exist'),
    ('sources_not_in_order', {'lib/meson.build': "'roof/turn.c', 'conn/conn.c', 'kernel/linux.c'"}, 'not in order'),
]


def errors_of(files):
    with tempfile.TemporaryDirectory() as top:
        for name, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(top, name)), exist_ok=True)
            with open(os.path.join(top, name), 'w', encoding='utf-8') as file:
                file.write(text)
        tree = Tree(top)
        for _, check in CHECKS:
            check(tree)
        return tree.errors


# Objects by what they define (T) and ask for (U).
BAD_OBJECTS = [
    ('that_ask_downwards_are_sound', {'base/a.c': ['T a'], 'kernel/b.c': ['T b', 'U a', 'U printf']}, ''),
    ('that_ask_upwards_are_refused', {'base/a.c': ['T a', 'U b'], 'kernel/b.c': ['T b']},
     'lib/base/a.c asks upwards, for b of lib/kernel/b.c'),
    ('in_a_new_circle_are_refused', {'base/a.c': ['T a', 'U b'], 'base/b.c': ['T b', 'U a']},
     'a circle: base/a.c base/b.c'),
]


def object_errors_of(symbols):
    objects = Objects()
    for source, lines in symbols.items():
        objects.add(source, [tuple(line.split()) for line in lines])
    for _, check in OBJECT_CHECKS:
        check(objects)
    return [error for error in objects.errors if 'strike them' not in error]


def self_test():
    tap = Tap()
    tap.case('sound_tree_is_accepted', errors_of(SOUND))
    for name, change, complaint in BAD:
        errors = errors_of({**SOUND, **change})
        missing = [] if any(complaint in error for error in errors) else \
            [f'not said: {complaint}; said: {errors}']
        tap.case(f'{name}_is_refused', missing)
    for name, symbols, complaint in BAD_OBJECTS:
        errors = object_errors_of(symbols)
        wrong = [] if (any(complaint in error for error in errors) if complaint else not errors) else \
            [f'to be said: {complaint}; said: {errors}']
        tap.case(f'objects_{name}', wrong)
    return tap.end('floors-selftest', 17)


def main():
    arguments = sys.argv[1:]
    if arguments == ['--self-test']:
        return self_test()
    top = TOP
    if len(arguments) == 2 and arguments[0] == '--objects':
        return check_objects(arguments[1])
    if len(arguments) == 2 and arguments[0] == '--tree':
        top = arguments[1]
    elif arguments:
        print(__doc__)
        return 2
    return check_tree(top)


sys.exit(main())
