"""Cases of the suites that are scripts: each is a function, whose name is a promise. TAP on stdout."""
import subprocess


def run_cases(suite, cases, floor):
    """Runs them in order; returns the exit status: 1 when one failed, or there are fewer than floor."""
    failed = 0
    for number, case in enumerate(cases, 1):
        try:
            case()
            print("ok %d - %s" % (number, case.__name__), flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as fault:
            failed += 1
            print("not ok %d - %s\n# %s" % (number, case.__name__, repr(fault)[:3000]), flush=True)
    print("# suite %s: ran %d cases, floor %d" % (suite, len(cases), floor))
    print("1..%d" % len(cases))
    return 1 if failed or len(cases) < floor else 0
