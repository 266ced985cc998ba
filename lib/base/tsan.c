/* Where the order of maps is kept for ThreadSanitizer. */
#include "base/tsan.h"

char kr__maps;
