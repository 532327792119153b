/* A stand-in for NVIDIA's libnvidia-ml.so.1: answers from the file `nvml.state` beside the library, read anew for
   every question, so that a test changes the machine while the program under test runs. Without the file the driver
   is not loaded. Lines are `key=value`; tests/stand_in_nvml.py writes them and says what the keys are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9, TIMEOUT = 10 };
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned int gpu, memory; } rates_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } process_t;
typedef struct { void *device; unsigned long long type, data; unsigned int gi, ci; } event_t;
/* a handle is 1000 * (device + 1) + (part + 1), part 0 being the whole device */
typedef size_t handle_t;

static int look(const char *key, char *value, size_t room) {
    Dl_info me;
    char path[4096], line[4096];
    if (!dladdr((void *)look, &me)) return 0;
    snprintf(path, sizeof path, "%s", me.dli_fname);
    char *slash = strrchr(path, '/');
    snprintf(slash ? slash + 1 : path, 32, "nvml.state");
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    int found = 0;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && line[length] == '=') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, room, "%s", line + length + 1);
            found = 1;
        }
    fclose(file);
    return found;
}

static unsigned long long number(const char *key, unsigned long long otherwise) {
    char value[64];
    return look(key, value, sizeof value) == 1 ? strtoull(value, NULL, 0) : otherwise;
}

static void name_of(handle_t h, const char *what, char *key, size_t room) {
    if (h % 1000)
        snprintf(key, room, "%zu.part.%zu.%s", h / 1000 - 1, h % 1000 - 1, what);
    else
        snprintf(key, room, "%zu.%s", h / 1000 - 1, what);
}

static int fault(handle_t h) {
    char key[128];
    if (number("hang", 0)) sleep((unsigned)number("hang", 0));
    snprintf(key, sizeof key, "%zu.error", h / 1000 - 1);
    return (int)number(key, 0);
}

static int text_of(handle_t h, const char *what, char *out, size_t room) {
    char key[128];
    if (fault(h)) return fault(h);
    name_of(h, what, key, sizeof key);
    return look(key, out, room) == 1 ? OK : NOT_FOUND;
}

static int number_of(handle_t h, const char *what, unsigned long long *out) {
    char value[64];
    int code = text_of(h, what, value, sizeof value);
    if (code) return code == NOT_FOUND ? NOT_SUPPORTED : code;
    *out = strtoull(value, NULL, 0);
    return OK;
}

int nvmlInitWithFlags(unsigned int flags) {
    char value[64];
    (void)flags;
    if (look("count", value, sizeof value) != 1) return NOT_LOADED;
    return (int)number("init", 0);
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "stand-in error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned int room) {
    return look("driver", out, room) == 1 ? OK : NOT_LOADED;
}
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = (unsigned)number("count", 0); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, handle_t *h) {
    if (index >= number("count", 0)) return INVALID;
    *h = 1000 * (index + 1);
    return fault(*h);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, handle_t *h) {
    char value[128];
    for (handle_t d = 1; d <= number("count", 0); d++)
        for (handle_t part = 0; part <= 8; part++) {
            handle_t one = 1000 * d + part;
            char key[128];
            name_of(one, "uuid", key, sizeof key);
            if (look(key, value, sizeof value) == 1 && !strcmp(value, uuid)) { *h = one; return fault(one); }
        }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(handle_t h, char *out, unsigned int room) { return text_of(h, "uuid", out, room); }
int nvmlDeviceGetName(handle_t h, char *out, unsigned int room) { return text_of(h, "name", out, room); }
int nvmlDeviceGetMinorNumber(handle_t h, unsigned int *out) {
    unsigned long long value = 0;
    int code = number_of(h, "minor", &value);
    *out = (unsigned)value;
    return code;
}
int nvmlDeviceGetCudaComputeCapability(handle_t h, int *major, int *minor) {
    char value[64];
    int code = text_of(h, "capability", value, sizeof value);
    if (!code && sscanf(value, "%d.%d", major, minor) != 2) code = NOT_SUPPORTED;
    return code;
}
int nvmlDeviceGetMemoryInfo(handle_t h, memory_t *out) {
    int code = number_of(h, "memory", &out->total);
    if (!code) code = number_of(h, "used", &out->used);
    out->free = out->total - out->used;
    return code;
}
int nvmlDeviceGetMemoryInfo_v2(handle_t h, memory_v2_t *out) {
    memory_t plain;
    int code = nvmlDeviceGetMemoryInfo(h, &plain);
    out->total = plain.total; out->used = plain.used; out->free = plain.free; out->reserved = 0;
    return code;
}
int nvmlDeviceGetComputeRunningProcesses_v3(handle_t h, unsigned int *count, process_t *out) {
    char value[1024];
    int code = text_of(h, "processes", value, sizeof value);
    if (code == NOT_FOUND) { *count = 0; return OK; }
    if (code) return code;
    unsigned int n = 0, room = out ? *count : 0;
    for (char *word = strtok(value, ","); word; word = strtok(NULL, ",")) {
        unsigned int pid; unsigned long long used;
        if (sscanf(word, "%u:%llu", &pid, &used) != 2) continue;
        if (out && n < room) { out[n].pid = pid; out[n].used = used; out[n].gi = out[n].ci = 0; }
        n++;
    }
    *count = n;
    return n > room ? TOO_SMALL : OK;
}
int nvmlDeviceGetUtilizationRates(handle_t h, rates_t *out) {
    unsigned long long value = 0;
    int code = number_of(h, "utilisation", &value);
    out->gpu = (unsigned)value; out->memory = 0;
    return code;
}
int nvmlDeviceGetTotalEnergyConsumption(handle_t h, unsigned long long *out) { return number_of(h, "energy", out); }
int nvmlDeviceGetCurrentClocksThrottleReasons(handle_t h, unsigned long long *out) {
    return number_of(h, "throttle", out);
}
int nvmlDeviceGetTotalEccErrors(handle_t h, int type, int counter, unsigned long long *out) {
    (void)type; (void)counter;
    return number_of(h, "ecc", out);
}
int nvmlDeviceGetMigMode(handle_t h, unsigned int *now, unsigned int *later) {
    unsigned long long parts = 0;
    int code = number_of(h, "parts", &parts);
    *now = *later = parts > 0;
    return code;
}
int nvmlDeviceGetMaxMigDeviceCount(handle_t h, unsigned int *count) { (void)h; *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(handle_t h, unsigned int index, handle_t *part) {
    unsigned long long parts = 0;
    number_of(h, "parts", &parts);
    if (index >= parts) return NOT_FOUND;
    *part = h + index + 1;
    return OK;
}
int nvmlDeviceGetGpuInstanceId(handle_t h, unsigned int *id) { *id = (unsigned)(h % 1000); return OK; }
int nvmlDeviceGetComputeInstanceId(handle_t h, unsigned int *id) { (void)h; *id = 0; return OK; }
int nvmlEventSetCreate(handle_t *set) { *set = 1; return OK; }
int nvmlEventSetFree(handle_t set) { (void)set; return OK; }
int nvmlDeviceRegisterEvents(handle_t h, unsigned long long types, handle_t set) {
    (void)types; (void)set;
    return fault(h);
}
/* an Xid in the state file happens once in each process that listens */
int nvmlEventSetWait_v2(handle_t set, event_t *event, unsigned int wait_ms) {
    static unsigned long long told[64];
    (void)set; (void)wait_ms;
    for (handle_t d = 1; d <= number("count", 0) && d < 64; d++) {
        char key[64];
        snprintf(key, sizeof key, "%zu.xid", d - 1);
        unsigned long long xid = number(key, 0);
        if (xid && told[d] != xid) {
            told[d] = xid;
            event->device = (void *)(1000 * d); event->type = 8; event->data = xid;
            return OK;
        }
        if (!xid) told[d] = 0;
    }
    return TIMEOUT;
}
