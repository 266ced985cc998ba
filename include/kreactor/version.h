/* The version of the headers, and of the library that is running. */
#ifndef KREACTOR_VERSION_H
#define KREACTOR_VERSION_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KR_VERSION_MAJOR 0
#define KR_VERSION_MINOR 1
#define KR_VERSION_PATCH 0
#define KR_VERSION (KR_VERSION_MAJOR * 10000 + KR_VERSION_MINOR * 100 + KR_VERSION_PATCH)

/* Returns the KR_VERSION of the running library. Before 1.0 a program must be built with the
 * headers of the same minor version as the library that it runs with. Any thread. */
KR_API unsigned kr_version(void);

#ifdef __cplusplus
}
#endif

#endif
