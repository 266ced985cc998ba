/* Looking ahead: requests that came together wait for memory together. */
#ifndef RESP_AHEAD_H
#define RESP_AHEAD_H

#include "store.h"

/* Asks the processor for the records that the requests at `data` name first, and returns how many
 * requests it has looked at. Only a hint: whatever the bytes are, nothing changes. */
unsigned look_ahead(const struct store *store, const char *data, size_t size);

#endif
