/* What the loop needs of recv beside its row. */
#ifndef KR_OP_RECV_H
#define KR_OP_RECV_H

#include "core/conn.h"

/* Shows what waited while reading was stopped. */
void kr__recv_show(struct kr_reactor *r, struct kr__conn *c);

#endif
