/* A CUDA runtime without a device: PyTorch believes that there is one GPU, on which nothing can compute.
 *
 * Preloaded, it answers what PyTorch asks while operations run on fake tensors: properties, streams,
 * events, pinned memory. "Device" memory is memory of the host.
 */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#undef cudaGetDeviceProperties /* a macro in the headers of CUDA 12 */

#define MULTIPROCESSORS 132 /* of an H100 */
#define MEMORY (80ull << 30)
#define ANSWER(name, ...) cudaError_t name(__VA_ARGS__)

/* The device */

ANSWER(cudaGetDeviceCount, int *count) { *count = 1; return cudaSuccess; }
ANSWER(cudaGetDevice, int *device) { *device = 0; return cudaSuccess; }
ANSWER(cudaSetDevice, int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
ANSWER(cudaDriverGetVersion, int *version) { *version = CUDART_VERSION; return cudaSuccess; }
ANSWER(cudaRuntimeGetVersion, int *version) { *version = CUDART_VERSION; return cudaSuccess; }
ANSWER(cudaDeviceSynchronize, void) { return cudaSuccess; }
ANSWER(cudaMemGetInfo, size_t *available, size_t *total) { *available = *total = MEMORY; return cudaSuccess; }

ANSWER(cudaGetDeviceProperties, struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "no device");
    p->major = 9;
    p->multiProcessorCount = MULTIPROCESSORS;
    p->totalGlobalMem = MEMORY;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->l2CacheSize = 50 << 20;
    return cudaSuccess;
}

ANSWER(cudaDeviceGetAttribute, int *value, enum cudaDeviceAttr attribute, int device) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9
        : attribute == cudaDevAttrMultiProcessorCount       ? MULTIPROCESSORS : 0;
    return cudaSuccess;
}

ANSWER(cudaDeviceCanAccessPeer, int *can, int device, int peer) { *can = 0; return cudaSuccess; }
ANSWER(cudaDeviceGetStreamPriorityRange, int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

/* Errors: there are none */

ANSWER(cudaGetLastError, void) { return cudaSuccess; }
ANSWER(cudaPeekAtLastError, void) { return cudaSuccess; }

/* Streams and events: all work is done at once */

ANSWER(cudaStreamCreateWithPriority, cudaStream_t *stream, unsigned flags, int priority) {
    *stream = malloc(1);
    return cudaSuccess;
}
ANSWER(cudaStreamQuery, cudaStream_t stream) { return cudaSuccess; }
ANSWER(cudaStreamSynchronize, cudaStream_t stream) { return cudaSuccess; }
ANSWER(cudaStreamWaitEvent, cudaStream_t stream, cudaEvent_t event, unsigned flags) { return cudaSuccess; }
ANSWER(cudaStreamIsCapturing, cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
ANSWER(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
ANSWER(cudaEventCreateWithFlags, cudaEvent_t *event, unsigned flags) { *event = malloc(1); return cudaSuccess; }
ANSWER(cudaEventDestroy, cudaEvent_t event) { free(event); return cudaSuccess; }
ANSWER(cudaEventRecord, cudaEvent_t event, cudaStream_t stream) { return cudaSuccess; }
ANSWER(cudaEventRecordWithFlags, cudaEvent_t event, cudaStream_t stream, unsigned flags) { return cudaSuccess; }
ANSWER(cudaEventQuery, cudaEvent_t event) { return cudaSuccess; }
ANSWER(cudaEventSynchronize, cudaEvent_t event) { return cudaSuccess; }

/* Memory. What is pinned is remembered, so that tensors know it. */

#define MAX_PINNED 4096
static struct { char *start; size_t size; } pinned[MAX_PINNED];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void replace_pinned(void *old, void *start, size_t size) {
    pthread_mutex_lock(&lock);
    for (int k = 0; k < MAX_PINNED; k++)
        if (pinned[k].start == old) {
            pinned[k].start = start;
            pinned[k].size = size;
            break;
        }
    pthread_mutex_unlock(&lock);
}

ANSWER(cudaHostAlloc, void **p, size_t size, unsigned flags) {
    *p = malloc(size + 1);
    replace_pinned(NULL, *p, size);
    return cudaSuccess;
}
ANSWER(cudaFreeHost, void *p) {
    replace_pinned(p, NULL, 0);
    free(p);
    return cudaSuccess;
}
ANSWER(cudaPointerGetAttributes, struct cudaPointerAttributes *attributes, const void *p) {
    memset(attributes, 0, sizeof *attributes);
    attributes->type = cudaMemoryTypeUnregistered;
    pthread_mutex_lock(&lock);
    for (int k = 0; k < MAX_PINNED; k++)
        if (pinned[k].start && (char *)p >= pinned[k].start && (char *)p < pinned[k].start + pinned[k].size)
            attributes->type = cudaMemoryTypeHost;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}
ANSWER(cudaMalloc, void **p, size_t size) { *p = malloc(size + 1); return cudaSuccess; }
ANSWER(cudaFree, void *p) { free(p); return cudaSuccess; }
ANSWER(cudaMemcpy, void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    memcpy(to, from, size);
    return cudaSuccess;
}
ANSWER(cudaMemcpyAsync, void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    memcpy(to, from, size);
    return cudaSuccess;
}
ANSWER(cudaMemset, void *p, int value, size_t size) { memset(p, value, size); return cudaSuccess; }
ANSWER(cudaMemsetAsync, void *p, int value, size_t size, cudaStream_t stream) {
    memset(p, value, size);
    return cudaSuccess;
}

/* The driver, which PyTorch asks whether device 0 is in use */

static int primary_context_state(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = 1;
    return 0;
}
static int success(void) { return 0; }

ANSWER(cudaGetDriverEntryPointByVersion, const char *symbol, void **function, unsigned version,
       unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
    *function = strstr(symbol, "PrimaryCtxGetState") ? (void *)primary_context_state : (void *)success;
    if (result)
        *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
