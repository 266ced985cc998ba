# Counts what one suite said in TAP: prints "PASSED FAILED SKIPPED", then a line for each thing amiss.
# -v status=N is how the suite ended. A suite that has no plan, that ran another number of cases than
# it planned, that bailed out, or that ended badly without saying why counts one failure more.

/^not ok / { failed++ }
/^ok / { if ($0 ~ /# SKIP/) skipped++; else passed++ }
/^1\.\.[0-9]+$/ { plans++; planned = substr($0, 4) + 0 }
/^Bail out!/ { amiss = amiss "\nit bailed out:" substr($0, 10) }

END {
    ran = passed + failed + skipped
    if (plans != 1)
        amiss = amiss "\nit printed " plans + 0 " plans: it died, or is no suite"
    else if (planned != ran)
        amiss = amiss "\nit planned " planned " cases and reported " ran
    else if (ran == 0)
        amiss = amiss "\nit has no cases"
    if (status != 0 && failed == 0)
        amiss = amiss "\nit ended with status " status " and reported no failure"
    if (status == 0 && failed > 0)
        amiss = amiss "\nit reported failures and ended with status 0"
    printf "%d %d %d%s\n", passed, failed + (amiss != ""), skipped, amiss
}
