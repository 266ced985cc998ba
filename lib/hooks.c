/* The capabilities of connections: one row each, in the order of their features. */
#include "hooks.h"

#include "core/connect.h"
#include "core/detach.h"
#include "core/fds.h"
#include "core/forward.h"
#include "core/sockopt.h"

const struct kr__hooks *const kr__hook_rows[KR__ROW_COUNT] = {
    [KR__ROW_CONNECT] = &kr__hooks_connect, [KR__ROW_FORWARD] = &kr__hooks_forward,
    [KR__ROW_SOCKOPT] = &kr__hooks_sockopt, [KR__ROW_DETACH] = &kr__hooks_detach,
    [KR__ROW_FDS] = &kr__hooks_fds,         [KR__ROW_ACCEPT] = &kr__hooks_accept,
    [KR__ROW_DRAIN] = &kr__hooks_drain,
};
