/* A driver without a GPU: enough of libcuda.so.1 to load kernels, hold memory and take launches.
 *
 * Memory of the "device" is one arena of the host. A launch calls back into Python, which executes
 * the PTX of the kernel of that name. Streams and events are numbers that are counted; everything
 * happens at once, in order. Functions that are not here are reported as missing.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA (64ull << 20)
#define ALIGNMENT 256
#define GAP 4096
#define MANY 65536

typedef int (*launch_t)(const char *, const unsigned *, void *, void **);

static char *arena;
static uint64_t used = GAP;
static struct { uint64_t at, size; int device; } buffers[MANY], freed[MANY];
static int count, freed_count;
static launch_t launch;
static int synchronisations, driver_calls;
static int contexts[2]; /* of the devices, by their addresses */
static __thread void *stack[16]; /* of contexts; the last is current */
static __thread int depth;

static uint64_t refused_bytes;
static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* callers hold no lock of Python's */

/* ---- for the tests ---- */
void stub_refuse(uint64_t bytes) { refused_bytes = bytes; }
void stub_set_launch(launch_t f) { launch = f; }
uint64_t stub_arena(void) { return (uint64_t)arena; }
uint64_t stub_used(void) { return used; }
int stub_synchronisations(void) { return synchronisations; }
int stub_buffers(uint64_t *at, uint64_t *size) {
    pthread_mutex_lock(&busy);
    int found = count;
    for (int i = 0; i < count; i++) { at[i] = buffers[i].at; size[i] = buffers[i].size; }
    pthread_mutex_unlock(&busy);
    return found;
}

static void *context(void) { return depth ? stack[depth - 1] : NULL; }
static int device_of(void *c) { return c == &contexts[1]; }
static int devices(void) { return getenv("STUB_DEVICES") ? atoi(getenv("STUB_DEVICES")) : 1; }

static int owner(CUdeviceptr p) {
    for (int i = 0; i < count; i++)
        if (p >= buffers[i].at && p < buffers[i].at + buffers[i].size) return buffers[i].device;
    return 0;
}

static CUresult take(int device, CUdeviceptr *p, size_t n) {
    if (refused_bytes && n >= refused_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    for (int i = freed_count; i-- > 0;)
        if (freed[i].size == n && freed[i].device == device && count < MANY) {
            *p = (CUdeviceptr)freed[i].at;
            buffers[count++] = freed[i];
            freed[i] = freed[--freed_count];
            return CUDA_SUCCESS;
        }
    used = (used + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (used + n + GAP > ARENA || count == MANY) return CUDA_ERROR_OUT_OF_MEMORY;
    *p = (CUdeviceptr)(arena + used);
    buffers[count].at = *p;
    buffers[count].device = device;
    buffers[count++].size = n;
    used += n + GAP;
    return CUDA_SUCCESS;
}

static CUresult allocate_on(int device, CUdeviceptr *p, size_t n) {
    pthread_mutex_lock(&busy);
    CUresult result = take(device, p, n);
    pthread_mutex_unlock(&busy);
    return result;
}

static CUresult allocate(CUdeviceptr *p, size_t n) { return allocate_on(device_of(context()), p, n); }

static CUresult give_back(CUdeviceptr p) {
    for (int i = 0; i < count; i++)
        if (buffers[i].at == p) {
            if (freed_count < MANY) freed[freed_count++] = buffers[i];
            buffers[i] = buffers[--count];
            return CUDA_SUCCESS;
        }
    return p ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult release(CUdeviceptr p) {
    pthread_mutex_lock(&busy);
    CUresult result = give_back(p);
    pthread_mutex_unlock(&busy);
    return result;
}

CUresult cuInit(unsigned f) {
    if (!arena) arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int *v) { *v = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *n) { *n = devices(); return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *d, int i) { *d = i; return i < devices() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDeviceGetName(char *s, int n, CUdevice d) { snprintf(s, n, "stub (no GPU)"); return CUDA_SUCCESS; }
CUresult cuDeviceGetUuid_v2(CUuuid *u, CUdevice d) { memset(u, 1 + d, sizeof *u); return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t *n, CUdevice d) { *n = ARENA; return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
    switch (a) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = 9; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 4; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *v = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *v = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *v = 1; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *v = 1; break;
    default: *v = 0;
    }
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)&contexts[d]; return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *a) { *f = 0; *a = 1; return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *c) { *c = context(); return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) {
    if (!depth && c) depth = 1;
    if (depth) stack[depth - 1] = c;
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent_v2(CUcontext c) {
    if (depth == 16) return CUDA_ERROR_INVALID_VALUE;
    stack[depth++] = c;
    return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent_v2(CUcontext *c) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    if (c) *c = context();
    depth--;
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *d) { *d = device_of(context()); return context() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }
CUresult cuCtxGetDevice_v2(CUdevice *d, CUcontext c) { *d = device_of(c ? c : context()); return CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) { synchronisations++; return CUDA_SUCCESS; }
CUresult cuMemGetInfo_v2(size_t *a, size_t *b) { *a = ARENA - used; *b = ARENA; return CUDA_SUCCESS; }
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) { return allocate(p, n); }
CUresult cuMemFree_v2(CUdeviceptr p) { return release(p); }
CUresult cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream s) { return allocate(p, n); }
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t n, CUmemoryPool o, CUstream s) { return allocate_on((int)(uintptr_t)o - 1, p, n); }
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream s) { return release(p); }
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *p, CUdevice d) { *p = (CUmemoryPool)(uintptr_t)(1 + d); return CUDA_SUCCESS; }
CUresult cuDeviceGetMemPool(CUmemoryPool *p, CUdevice d) { *p = (CUmemoryPool)(uintptr_t)(1 + d); return CUDA_SUCCESS; }
CUresult cuMemPoolSetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { memset(v, 0, 8); return CUDA_SUCCESS; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *s, size_t n) { memcpy((void *)d, s, n); return CUDA_SUCCESS; }
CUresult cuMemcpyDtoH_v2(void *d, CUdeviceptr s, size_t n) { synchronisations++; memcpy(d, (void *)s, n); return CUDA_SUCCESS; }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void *s, size_t n, CUstream t) { return cuMemcpyHtoD_v2(d, s, n); }
CUresult cuMemcpyDtoHAsync_v2(void *d, CUdeviceptr s, size_t n, CUstream t) { return cuMemcpyDtoH_v2(d, s, n); }
CUresult cuPointerGetAttribute(void *v, CUpointer_attribute a, CUdeviceptr p) {
    if (a == CU_POINTER_ATTRIBUTE_CONTEXT) *(void **)v = &contexts[owner(p)];
    else if (a == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) *(int *)v = 2;
    else if (a == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) *(int *)v = owner(p);
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuPointerGetAttributes(unsigned n, CUpointer_attribute *a, void **v, CUdeviceptr p) {
    for (unsigned i = 0; i < n; i++)
        if (cuPointerGetAttribute(v[i], a[i], p)) memset(v[i], 0, 4);
    return CUDA_SUCCESS;
}
CUresult cuLibraryLoadData(CUlibrary *l, const void *code, CUjit_option *o, void **v, unsigned n,
                           CUlibraryOption *p, void **w, unsigned m) { *l = (CUlibrary)1; return CUDA_SUCCESS; }
CUresult cuLibraryUnload(CUlibrary l) { return CUDA_SUCCESS; }
CUresult cuLibraryGetKernel(CUkernel *k, CUlibrary l, const char *name) { *k = (CUkernel)strdup(name); return CUDA_SUCCESS; }
CUresult cuKernelGetAttribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice d) { *v = 0; return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream s) { synchronisations++; return CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream *s, unsigned f) { static uint64_t n = 4096; *s = (CUstream)(n += 16); return CUDA_SUCCESS; }
CUresult cuStreamCreateWithPriority(CUstream *s, unsigned f, int p) { return cuStreamCreate(s, f); }
CUresult cuStreamDestroy_v2(CUstream s) { return CUDA_SUCCESS; }
CUresult cuStreamGetCtx(CUstream s, CUcontext *c) { *c = context() ? context() : (CUcontext)&contexts[0]; return CUDA_SUCCESS; }
CUresult cuStreamGetCtx_v2(CUstream s, CUcontext *c, CUgreenCtx *g) { *c = context() ? context() : (CUcontext)&contexts[0]; return CUDA_SUCCESS; }
CUresult cuStreamGetDevice(CUstream s, CUdevice *d) { *d = device_of(context()); return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned f) { return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *c) { *c = CU_STREAM_CAPTURE_STATUS_NONE; return CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *e, unsigned f) { *e = (CUevent)1; return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent e, CUstream s) { return CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(CUevent e) { return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult r, const char **s) {
    *s = r == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "STUB_ERROR";
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult r, const char **s) { *s = "the stub refuses"; return CUDA_SUCCESS; }
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **x) {
    unsigned shape[7] = {c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ, 1};
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            shape[6] = c->attrs[i].value.clusterDim.x;
    if (!context()) return CUDA_ERROR_INVALID_CONTEXT;
    return launch && launch((const char *)f, shape, c->hStream, p) ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e,
                        unsigned g, unsigned m, CUstream s, void **p, void **x) {
    unsigned shape[7] = {a, b, c, d, e, g, 1};
    return launch && launch((const char *)f, shape, s, p) ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}

static CUresult missing(void) { return CUDA_ERROR_NOT_SUPPORTED; }

CUresult cuGetProcAddress_v2(const char *name, void **f, int v, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *r) {
    char buffer[256];
    const char *endings[] = {"_v3", "_v2", ""};
    *f = NULL;
    if (strcmp(name, "cuGetProcAddress") == 0) *f = (void *)cuGetProcAddress_v2;
    for (int i = 0; i < 3 && !*f; i++) {
        snprintf(buffer, sizeof buffer, "%s%s", name, endings[i]);
        *f = dlsym(RTLD_DEFAULT, buffer);
        if (!*f) { void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_NOW); if (self) *f = dlsym(self, buffer); }
    }
    if (!*f) { if (getenv("STUB_VERBOSE")) fprintf(stderr, "stub: no %s\n", name); *f = (void *)missing; }
    if (r) *r = CU_GET_PROC_ADDRESS_SUCCESS;
    return CUDA_SUCCESS;
}
