/* The states of a connection, and the events that lead from one to another.
 *
 * Only kr__conn_goes (conn/life.c) changes the state. Its table is the whole automaton:
 *
 *   FREE --MADE--> OPENING --ESTABLISHED--> OPEN <--KEPT-- DETACHING
 *   FREE --ACCEPTED--------------------------^ '--DETACHED----^
 *
 *   OPENING, OPEN, DETACHING --LINGERS--> LINGERING --FLUSHES--> FLUSHING
 *   OPENING, OPEN, DETACHING --FLUSHES-------------------------> FLUSHING
 *   all of these --JOINS--> JOINING --JOINED--> CLOSING --GONE--> FREE
 *   all of these --JOINED (nothing is in flight)--> CLOSING
 */
#ifndef KR_CONN_STATE_H
#define KR_CONN_STATE_H

enum kr__conn_state {
    /* The slot has no connection. */
    KR__CONN_FREE,
    /* Of kr_connect or kr_conn_adopt, until it is established: takes sends, runs no callback. */
    KR__CONN_OPENING,
    /* Bytes flow. */
    KR__CONN_OPEN,
    /* Leaves as a descriptor (extra/detach.c): armed requests are cancelled and joined, then a
     * descriptor is made. What is received meanwhile is kept. */
    KR__CONN_DETACHING,
    /* KR_CLOSE_LINGER: sends what is queued, ends this side, and drops what it receives, until the
     * peer has ended too. The flush deadline bounds that. */
    KR__CONN_LINGERING,
    /* KR_CLOSE_FLUSH: sends what is queued, and receives nothing. The flush deadline bounds that. */
    KR__CONN_FLUSHING,
    /* Armed requests are cancelled and their last completions awaited; join before close, because
     * the kernel may give a closed slot to the very next accept. */
    KR__CONN_JOINING,
    /* RESET, if asked for, UNLINGER, if others made the socket, PURGE, if descriptors may lie in it,
     * then CLOSE in flight. */
    KR__CONN_CLOSING,
};
#define KR__CONN_STATES (KR__CONN_CLOSING + 1)

_Static_assert(KR__CONN_OPEN < KR__CONN_DETACHING && KR__CONN_DETACHING < KR__CONN_LINGERING &&
                   KR__CONN_LINGERING < KR__CONN_FLUSHING && KR__CONN_FLUSHING < KR__CONN_JOINING,
               "a harder close leads to a later state");

enum kr__conn_event {
    KR__MADE,        /* the library begins one in a slot of its own */
    KR__ACCEPTED,    /* the kernel has put an accepted socket into the slot */
    KR__ESTABLISHED, /* the connect has succeeded, or the adopted one may be told of */
    KR__DETACHES,    /* kr_conn_detach */
    KR__KEPT,        /* there is no descriptor to be had: it goes on as it was */
    KR__LINGERS,     /* kr_conn_close with KR_CLOSE_LINGER */
    KR__FLUSHES,     /* kr_conn_close with KR_CLOSE_FLUSH, and something is queued */
    KR__JOINS,       /* nothing but what is in flight keeps it */
    KR__JOINED,      /* nothing is in flight */
    KR__LOST,        /* its completions will never come */
    KR__GONE,        /* the CLOSE is done, or it could not be made */
    KR__CONN_EVENTS
};

#endif
