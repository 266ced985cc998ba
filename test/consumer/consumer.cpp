/* A C++ embedder: every public header, and a call through them. The umbrella alone would hide a
 * header that it forgets: run.sh adds an include of each to this file. */
#include <kreactor.h>

int main() {
    kr_config config;
    kr_config_init(&config);
    kr_conn none{};
    return config.size == sizeof(config) && none.bits == 0 && kr_version() == KR_VERSION ? 0 : 1;
}
