/* The table of kinds, which a reactor is given. */
#ifndef KR_ROOF_KINDS_H
#define KR_ROOF_KINDS_H

#include "conn/reactor.h"

extern const struct kr__kind_row kr__kind_rows[KR__KIND_COUNT];

/* Where the owners are, when their tables have been made. */
void kr__kinds_init(struct kr_reactor *r);

#endif
