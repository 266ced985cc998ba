/* A reactor in text, kind by kind. */
#ifndef KR_ROOF_DUMP_H
#define KR_ROOF_DUMP_H

#include "conn/reactor.h"

struct kr__dump;

void kr__dump_self(struct kr__dump *d, const struct kr_reactor *r);
void kr__dump_listeners(struct kr__dump *d, const struct kr_reactor *r);
void kr__dump_conns(struct kr__dump *d, const struct kr_reactor *r);

#endif
