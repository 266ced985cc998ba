/* Showing received bytes, and the end of the stream, to whom they are for. */
#ifndef KR_CONN_SHOW_H
#define KR_CONN_SHOW_H

#include "conn/reactor.h"

/* Bytes have come in a receive buffer. May run callbacks. */
void kr__show_received(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size,
                       uint16_t buf);

/* The end of the stream has come. It is told of after all bytes, and not before those that are held
 * back. May run callbacks. */
void kr__show_end(struct kr_reactor *r, struct kr__conn *c);

/* Shows what waited while reading was stopped: kept bytes, then the end of the stream. A phase of the
 * turn. */
void kr__show_kept(struct kr_reactor *r, struct kr__conn *c);

#endif
