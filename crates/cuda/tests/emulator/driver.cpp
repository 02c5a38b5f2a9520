// A stand-in for libcuda.so.1: the driver's functions that crates/cuda/src/driver calls, over memory of the host and the
// emulator. It is as unhelpful as a driver may be, so that what is forgotten shows:
//
// * Work is deferred: a stream is a queue, and nothing runs before somebody waits. Then streams take turns at random.
// * Memory of devices has addresses of its own, which are accessible only while work runs: the host faults on them.
//   An address is never used twice; what is freed faults, what is allocated is full of NaN, what is written behind the
//   end is found when it is freed.
// * Pinned memory is inaccessible from the moment that a copy is submitted until it is done. Pageable memory is read
//   when a copy is submitted.
// * A kernel that faults, or that the emulator complains about, loses the device: from then on every call fails.
// * What is undefined for the real driver (a handle that is no longer, a module that is unloaded under a launch) ends the
//   process with a message that starts with "fake driver: VIOLATION".
//
// A cubin is an ELF shared library that g++ made of a kernel's text, see emulator.h. When the process ends, a report goes to
// stderr: what leaked, and how often each function was called. Variables of the environment make things go wrong:
//
//   FAKE_CUDA_DEVICES=2          how many devices; 0 makes cuInit fail as without one
//   FAKE_CUDA_INIT=34            what cuInit returns
//   FAKE_CUDA_VERSION=11020      what cuDriverGetVersion says
//   FAKE_CUDA_LOCAL=64,0         bytes of memory that threads of each function need for want of registers, in order of loading
//   FAKE_CUDA_MEMORY=1048576     bytes of a device
//   FAKE_CUDA_POOLS=0            devices have no pools; 2: they say they have, but making one is not supported
//   FAKE_CUDA_FAIL=cuX:3:999     the third call of cuX does nothing but return 999; several, with commas
//   FAKE_CUDA_FAULT=2:719        the second kernel to run does not, and the device is lost with 719
//   FAKE_CUDA_LEAKS=1            what is destroyed may have something in it
//   FAKE_CUDA_SEED=7             every choice that is made at random
//
// The library is built per test program by tests/common/fake.rs. It is one file, since its functions share one table of
// devices, streams and allocations under one lock, and a library of one file is compiled in one step.

#include "emulator.h"

#include <dlfcn.h>
#include <elf.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

constexpr size_t PAGE = 4096, ALIGNMENT = 256, ADDRESSES = size_t(1) << 40;
constexpr unsigned DEFAULT_SHARED = 48 * 1024, MAX_SHARED = EMULATOR_MAX_SHARED;

using Address = unsigned long long;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

bool may_leak() { return setting("FAKE_CUDA_LEAKS", 0); }

[[noreturn]] __attribute__((format(printf, 1, 2))) void violation(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("fake driver: VIOLATION: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    _exit(86);
}

// ---- what there is ----

struct Context;

// What a stream does.
struct Ticket {
    bool done = false;
    double milliseconds = 0;
};
struct Operation {
    std::function<void()> run;
    // Before this, nothing of the stream happens.
    std::shared_ptr<Ticket> after;
};
struct Graph {
    std::vector<Operation> operations;
    bool invalid = false;
};
struct Stream {
    Context *context;
    std::deque<Operation> queue = {};
    std::shared_ptr<Graph> capture = nullptr;
    bool destroyed = false;
    // Which of all that ever were: addresses differ from run to run.
    int number = 0;
};
struct Event {
    Context *context;
    // The last record; none yet counts as done.
    std::shared_ptr<Ticket> ticket;
    bool timed;
};
struct Pool {
    Context *context;
    uint64_t threshold = 0;
    size_t reserved = 0;
    // Sizes of blocks that were freed and are kept.
    std::multiset<size_t> kept = {};
};
struct Module {
    Context *context;
    void *library;
    int file;
    // Launches that have not run.
    int pending = 0;
    std::vector<struct Function *> functions = {};
};
struct Function {
    Module *module;
    const EmulatorEntry *entry;
    // The most that a launch may ask for.
    unsigned dynamic_shared;
    size_t shared() const { return entry->shared_end - entry->shared_begin; }
};
struct Executable {
    Context *context;
    std::shared_ptr<Graph> graph;
};
struct Context {
    int references = 0;
    int lost = SUCCESS;
    Stream legacy;
    size_t plain = 0; // bytes of cuMemAlloc
};
struct Block {
    Context *context;
    Pool *pool;
    size_t bytes;
    char *pages;
    size_t page_bytes;
    // Between the moments that its stream allocates and frees it.
    bool live;
    // cuMemFreeAsync was called.
    bool freed;
};
struct Pinned {
    size_t bytes;
    int pending;
};

// None of these is ever destroyed: threads may call until the very end.
auto &mutex = *new std::recursive_mutex;
auto &contexts = *new std::vector<Context>;
auto &blocks = *new std::map<Address, Block>;
auto &pinned = *new std::map<char *, Pinned>;
auto &streams = *new std::set<Stream *>;
auto &events = *new std::set<Event *>;
auto &pools = *new std::set<Pool *>;
auto &modules = *new std::set<Module *>;
auto &executables = *new std::set<Executable *>;
auto &graphs = *new std::set<Graph *>;
auto &calls = *new std::map<std::string, int>;
thread_local Context *current;
bool initialized;
// Forked children report nothing.
const pid_t process = getpid();
char *addresses, *next_address;
uint64_t random_state;
long long kernels;
size_t memory_limit;
int running;

uint64_t random_below(uint64_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

// ---- accesses that should not be ----

sigjmp_buf kernel_start;
volatile bool in_kernel;
struct sigaction previous_action;

void on_fault(int signal, siginfo_t *info, void *machine) {
    char *at = static_cast<char *>(info->si_addr);
    if (in_kernel)
        siglongjmp(kernel_start, 1);
    if (at >= addresses && at < addresses + ADDRESSES) {
        const char text[] = "fake driver: VIOLATION: the host accesses memory of a device\n";
        (void)!write(2, text, sizeof text - 1);
        _exit(86);
    }
    for (auto &[start, block] : pinned)
        if (at >= start && at < start + block.bytes) {
            const char text[] = "fake driver: VIOLATION: the host accesses pinned memory that a copy is at work on\n";
            (void)!write(2, text, sizeof text - 1);
            _exit(86);
        }
    // Not ours: as it would have been.
    if (previous_action.sa_flags & SA_SIGINFO)
        previous_action.sa_sigaction(signal, info, machine);
    else
        sigaction(SIGSEGV, &previous_action, nullptr);
}

void watch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous_action);
}

// ---- memory ----

void protect(char *at, size_t bytes, int how) {
    if (mprotect(at, bytes, how))
        violation("mprotect: %s", strerror(errno));
}

void protect(const Block &block, bool accessible) {
    protect(block.pages, block.page_bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
}

// Memory of devices is accessible while this lives.
struct Access {
    Access() {
        if (running++ == 0)
            for (auto &[_, block] : blocks)
                if (block.live)
                    protect(block, true);
    }
    ~Access() {
        if (--running == 0)
            for (auto &[_, block] : blocks)
                if (block.live)
                    protect(block, false);
    }
};

// The block that a range is in; null if none.
Block *find(Address address, size_t bytes) {
    auto i = blocks.upper_bound(address);
    if (i == blocks.begin())
        return nullptr;
    --i;
    return address + bytes <= i->first + i->second.bytes ? &i->second : nullptr;
}

bool is_live(Address address, size_t bytes) {
    Block *block = find(address, bytes);
    return block && block->live;
}

Pinned *find_pinned(const void *at, size_t bytes) {
    char *start = static_cast<char *>(const_cast<void *>(at));
    auto i = pinned.upper_bound(start);
    if (i == pinned.begin())
        return nullptr;
    --i;
    return start + bytes <= i->first + i->second.bytes ? &i->second : nullptr;
}

void protect_pinned(const Pinned *block, int how) {
    for (auto &[start, other] : pinned)
        if (&other == block)
            protect(start, round_up(block->bytes, PAGE), how);
}

Address reserve(Context *context, Pool *pool, size_t bytes) {
    size_t rounded = round_up(bytes, ALIGNMENT), pages = round_up(rounded, PAGE);
    char *start = next_address;
    // A page in between stays inaccessible.
    next_address += pages + PAGE;
    if (next_address > addresses + ADDRESSES)
        violation("no addresses are left");
    Address address = reinterpret_cast<Address>(start + pages - rounded);
    blocks[address] = Block{context, pool, bytes, start, pages, false, false};
    return address;
}

// What is behind the end up to the alignment, where no guard page is.
constexpr unsigned char BEHIND = 0xA5;

void make_live(Address address) {
    Block &block = blocks.at(address);
    block.live = true;
    protect(block, true);
    memset(reinterpret_cast<char *>(address), 0xFF, block.bytes);
    memset(reinterpret_cast<char *>(address) + block.bytes, BEHIND, round_up(block.bytes, ALIGNMENT) - block.bytes);
    if (!running)
        protect(block, false);
}

void bury(Address address) {
    Block &block = blocks.at(address);
    if (block.live) {
        protect(block, true);
        for (size_t i = block.bytes; i < round_up(block.bytes, ALIGNMENT); i++)
            if (reinterpret_cast<unsigned char *>(address)[i] != BEHIND)
                violation("byte %zu of %zu was written", i, block.bytes);
        madvise(block.pages, block.page_bytes, MADV_DONTNEED);
        protect(block, false);
    }
    if (Pool *pool = block.pool) {
        if (pool->threshold)
            pool->kept.insert(block.bytes);
        else
            pool->reserved -= block.bytes;
    } else {
        block.context->plain -= block.bytes;
    }
    blocks.erase(address);
}

size_t reserved(Context *context) {
    size_t bytes = context->plain;
    for (Pool *pool : pools)
        if (pool->context == context)
            bytes += pool->reserved;
    return bytes;
}

// ---- running ----

void lose(Context *context, int status, const char *why) {
    fprintf(stderr, "fake driver: the device is lost: %s\n", why);
    if (!context->lost)
        context->lost = status;
}

bool is_fatal(int status) { return status >= 700 && status < 720 && status != 701; }

std::vector<Stream *> all_streams() {
    std::vector<Stream *> all(streams.begin(), streams.end());
    std::sort(all.begin(), all.end(), [](Stream *a, Stream *b) { return a->number < b->number; });
    for (Context &context : contexts)
        all.push_back(&context.legacy);
    return all;
}

bool can_step(Stream *stream) {
    return !stream->queue.empty() && (!stream->queue.front().after || stream->queue.front().after->done);
}

// Does one thing of one stream; false if there is nothing to do.
bool step() {
    std::vector<Stream *> ready;
    for (Stream *stream : all_streams())
        if (can_step(stream))
            ready.push_back(stream);
    if (ready.empty())
        return false;
    Stream *stream = ready[random_below(ready.size())];
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (operation.run)
        operation.run();
    if (stream->destroyed && stream->queue.empty()) {
        streams.erase(stream);
        delete stream;
    }
    return true;
}

template <typename Done> void run_until(Done done) {
    Access access;
    while (!done())
        if (!step())
            violation("a wait that never ends");
}

void run_everything() {
    Access access;
    while (step()) {
    }
}

// Submits work, or adds it to the graph that is captured.
void submit(Stream *stream, std::function<void()> run, std::shared_ptr<Ticket> after = nullptr) {
    Operation operation{std::move(run), std::move(after)};
    if (stream->capture)
        stream->capture->operations.push_back(std::move(operation));
    else
        stream->queue.push_back(std::move(operation));
}

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const char *run_kernel(const EmulatorEntry *entry, const void *arguments, EmulatorIndex grid, EmulatorIndex block,
                       size_t shared) {
    if (sigsetjmp(kernel_start, 1)) {
        in_kernel = false;
        return "a kernel accesses an address that is not accessible";
    }
    in_kernel = true;
    const char *error = emulator_launch(entry, arguments, grid, block, shared);
    in_kernel = false;
    return error;
}

void launch(Function *function, const std::vector<char> &arguments, EmulatorIndex grid, EmulatorIndex block,
            size_t shared) {
    Context *context = function->module->context;
    if (context->lost)
        return;
    kernels++;
    if (const char *fault = getenv("FAKE_CUDA_FAULT")) {
        long long which = 0;
        int status = 0;
        if (sscanf(fault, "%lld:%d", &which, &status) == 2 && which == kernels)
            return lose(context, status, "as FAKE_CUDA_FAULT wants it");
    }
    Access access;
    const char *error = run_kernel(function->entry, arguments.data(), grid, block, shared);
    if (error)
        lose(context, strstr(error, "not accessible") ? ILLEGAL_ADDRESS : LAUNCH_FAILED, error);
}

// ---- calls ----

bool should_fail(const char *name, int &status) {
    int count = ++calls[name];
    const char *wanted = getenv("FAKE_CUDA_FAIL");
    for (; wanted && *wanted; wanted = strchr(wanted, ',') ? strchr(wanted, ',') + 1 : nullptr) {
        char which[64];
        int number = 0;
        if (sscanf(wanted, "%63[^:]:%d:%d", which, &number, &status) == 3 && !strcmp(which, name) && number == count) {
            if (is_fatal(status) && current)
                lose(current, status, "as FAKE_CUDA_FAIL wants it");
            return true;
        }
    }
    return false;
}

// Every call starts with one of these: that is counted, that may fail on demand, that needs `cuInit`, that needs a context
// which is not lost.
#define START                                                                                                          \
    std::lock_guard<std::recursive_mutex> guard(mutex);                                                                \
    if (int status = 0; should_fail(__func__, status))                                                                 \
        return status;
#define START_INITIALIZED                                                                                              \
    START if (!initialized) return NOT_INITIALIZED;
#define START_IN_CONTEXT                                                                                               \
    START_INITIALIZED if (!current || !current->references) return INVALID_CONTEXT;                                    \
    if (current->lost)                                                                                                 \
        return current->lost;
// To free things, which a lost device does too.
#define START_FREEING                                                                                                  \
    START_INITIALIZED if (!current || !current->references) return INVALID_CONTEXT;

template <typename T> T *live(std::set<T *> &all, void *handle, const char *what) {
    T *found = static_cast<T *>(handle);
    if (!all.count(found))
        violation("%p is no %s", handle, what);
    return found;
}

Stream *live_stream(void *handle) {
    // The default streams.
    if (reinterpret_cast<uintptr_t>(handle) <= 2)
        return &current->legacy;
    Stream *stream = live(streams, handle, "stream");
    if (stream->destroyed)
        violation("%p is no stream any more", handle);
    if (stream->context != current)
        violation("a stream of another context");
    return stream;
}

Event *live_event(void *handle) { return live(events, handle, "event"); }

// A copy between the host and a device: `touch` copies, once both sides are accessible.
int submit_host_copy(Stream *stream, const void *host, Address device, size_t bytes, std::function<void(char *)> touch) {
    Context *context = stream->context;
    Pinned *block = find_pinned(host, bytes);
    if (block) {
        if (stream->capture)
            return CAPTURE_UNSUPPORTED;
        block->pending++;
        protect_pinned(block, PROT_NONE);
    }
    submit(stream, [=] {
        if (block)
            protect_pinned(block, PROT_READ | PROT_WRITE);
        if (!context->lost) {
            if (is_live(device, bytes))
                touch(reinterpret_cast<char *>(device));
            else
                lose(context, ILLEGAL_ADDRESS, "a copy with memory that is not allocated at that time");
        }
        if (block && --block->pending)
            protect_pinned(block, PROT_NONE);
    });
    return SUCCESS;
}

} // namespace

#define API extern "C" __attribute__((visibility("default"))) int

// ---- library and devices ----

API cuInit(unsigned flags) {
    START
    if (int status = setting("FAKE_CUDA_INIT", 0))
        return status;
    int count = setting("FAKE_CUDA_DEVICES", 1);
    if (flags)
        return INVALID_VALUE;
    if (!count)
        return NO_DEVICE;
    if (initialized)
        return SUCCESS;
    initialized = true;
    random_state = setting("FAKE_CUDA_SEED", 1) * 0x9E3779B97F4A7C15u | 1;
    emulator_seed(random_state);
    memory_limit = setting("FAKE_CUDA_MEMORY", 1ll << 32);
    contexts.resize(count);
    for (Context &context : contexts)
        context.legacy.context = &context;
    void *start = mmap(nullptr, ADDRESSES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        violation("no addresses: %s", strerror(errno));
    addresses = next_address = static_cast<char *>(start);
    watch_faults();
    return SUCCESS;
}

API cuDriverGetVersion(int *version) {
    START
    *version = setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}

API cuGetErrorName(int status, const char **name) {
    static const std::map<int, const char *> names = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},     {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {34, "CUDA_ERROR_STUB_LIBRARY"},                 {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
        {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},   {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},     {999, "CUDA_ERROR_UNKNOWN"},
    };
    auto found = names.find(status);
    *name = found == names.end() ? nullptr : found->second;
    return *name ? SUCCESS : INVALID_VALUE;
}

API cuGetErrorString(int status, const char **text) {
    static const std::map<int, const char *> texts = {
        {INVALID_VALUE, "invalid argument"},
        {34, "CUDA driver is a stub library"},
        {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
        {LAUNCH_FAILED, "unspecified launch failure"},
        {999, "unknown error"},
    };
    auto found = texts.find(status);
    *text = found == texts.end() ? nullptr : found->second;
    return *text ? SUCCESS : INVALID_VALUE;
}

API cuDeviceGetCount(int *count) {
    START_INITIALIZED
    *count = contexts.size();
    return SUCCESS;
}

API cuDeviceGet(int *device, int ordinal) {
    START_INITIALIZED
    if (ordinal < 0 || ordinal >= int(contexts.size()))
        return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API cuDeviceGetName(char *name, int bytes, int device) {
    START_INITIALIZED
    snprintf(name, bytes, "emulated device %d", device);
    return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int) {
    START_INITIALIZED
    switch (attribute) {
    case 1: // threads of a block
        *value = EMULATOR_MAX_THREADS;
        return SUCCESS;
    case 16: // multiprocessors
        *value = 2;
        return SUCCESS;
    case 75: // compute capability, major
        *value = 9;
        return SUCCESS;
    case 76: // compute capability, minor
        *value = 0;
        return SUCCESS;
    case 97: // shared memory of a block that asks for more
        *value = MAX_SHARED;
        return SUCCESS;
    case 115: // pools
        *value = setting("FAKE_CUDA_POOLS", 1) != 0;
        return SUCCESS;
    default: // A question that the stand-in has no answer to.
        return INVALID_VALUE;
    }
}

API cuDeviceTotalMem_v2(size_t *bytes, int) {
    START_INITIALIZED
    *bytes = memory_limit;
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **context, int device) {
    START_INITIALIZED
    contexts.at(device).references++;
    *context = &contexts.at(device);
    return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
    START_INITIALIZED
    Context &context = contexts.at(device);
    if (context.references-- > 1)
        return SUCCESS;
    run_everything();
    // A lost device takes along what could not be freed any more.
    auto check = [&](auto &all, const char *what) {
        for (auto i = all.begin(); i != all.end();) {
            if ((*i)->context != &context) {
                ++i;
                continue;
            }
            if (!context.lost && !may_leak())
                violation("a context is destroyed that still has a %s", what);
            i = all.erase(i);
        }
    };
    check(streams, "stream");
    check(events, "event");
    check(pools, "pool");
    check(modules, "module");
    check(executables, "graph");
    for (auto &[_, block] : blocks)
        if (block.context == &context && !context.lost && !may_leak())
            violation("a context is destroyed that still has memory, %zu bytes", block.bytes);
    // The next one is as new.
    context.lost = SUCCESS;
    return SUCCESS;
}

API cuCtxGetCurrent(void **context) {
    START_INITIALIZED
    *context = current;
    return SUCCESS;
}

API cuCtxSetCurrent(void *context) {
    START_INITIALIZED
    current = static_cast<Context *>(context);
    return SUCCESS;
}

API cuCtxSynchronize() {
    START_IN_CONTEXT
    run_everything();
    return current->lost;
}

// ---- memory ----

API cuMemGetInfo_v2(size_t *free, size_t *total) {
    START_IN_CONTEXT
    *total = memory_limit;
    *free = memory_limit - reserved(current);
    return SUCCESS;
}

API cuMemAlloc_v2(Address *address, size_t bytes) {
    START_IN_CONTEXT
    if (!bytes)
        return INVALID_VALUE;
    if (reserved(current) + bytes > memory_limit)
        return OUT_OF_MEMORY;
    current->plain += bytes;
    *address = reserve(current, nullptr, bytes);
    make_live(*address);
    return SUCCESS;
}

API cuMemFree_v2(Address address) {
    START_FREEING
    // The real one waits for the device, which is not promised.
    if (!blocks.count(address) || blocks[address].pool)
        violation("cuMemFree of %#llx", address);
    bury(address);
    return SUCCESS;
}

API cuMemPoolCreate(void **pool, const int *properties) {
    START_IN_CONTEXT
    if (setting("FAKE_CUDA_POOLS", 1) == 2)
        return NOT_SUPPORTED;
    // Pinned, no handles, on a device.
    if (properties[0] != 1 || properties[1] != 0 || properties[2] != 1 || properties[3] != current - contexts.data())
        return INVALID_VALUE;
    Pool *made = new Pool{current};
    pools.insert(made);
    *pool = made;
    return SUCCESS;
}

API cuMemPoolDestroy(void *handle) {
    START_FREEING
    Pool *pool = live(pools, handle, "pool");
    run_everything();
    pools.erase(pool);
    for (auto &[_, block] : blocks)
        if (block.pool == pool) {
            if (!may_leak())
                violation("a pool is destroyed that still has memory, %zu bytes", block.bytes);
            return SUCCESS;
        }
    delete pool;
    return SUCCESS;
}

API cuMemPoolSetAttribute(void *handle, int attribute, void *value) {
    START_IN_CONTEXT
    if (attribute != 4) // release threshold
        return INVALID_VALUE;
    live(pools, handle, "pool")->threshold = *static_cast<uint64_t *>(value);
    return SUCCESS;
}

API cuMemPoolGetAttribute(void *handle, int attribute, void *value) {
    START_IN_CONTEXT
    if (attribute != 5) // reserved at present
        return INVALID_VALUE;
    *static_cast<uint64_t *>(value) = live(pools, handle, "pool")->reserved;
    return SUCCESS;
}

API cuMemPoolTrimTo(void *handle, size_t) {
    START_IN_CONTEXT
    Pool *pool = live(pools, handle, "pool");
    for (size_t bytes : pool->kept)
        pool->reserved -= bytes;
    pool->kept.clear();
    return SUCCESS;
}

API cuMemAllocFromPoolAsync(Address *address, size_t bytes, void *handle, void *on) {
    START_IN_CONTEXT
    Pool *pool = live(pools, handle, "pool");
    Stream *stream = live_stream(on);
    if (stream->capture)
        return CAPTURE_UNSUPPORTED;
    if (!bytes)
        return INVALID_VALUE;
    // A block that is kept serves if it is large enough: fragments are no memory.
    auto kept = pool->kept.lower_bound(bytes);
    if (kept != pool->kept.end()) {
        pool->reserved -= *kept;
        pool->kept.erase(kept);
    } else if (reserved(current) + bytes > memory_limit) {
        return OUT_OF_MEMORY;
    }
    pool->reserved += bytes;
    Address at = *address = reserve(current, pool, bytes);
    submit(stream, [=] { make_live(at); });
    return SUCCESS;
}

API cuMemFreeAsync(Address address, void *on) {
    START_FREEING
    if (!blocks.count(address) || blocks[address].freed)
        violation("cuMemFreeAsync of %#llx", address);
    Stream *stream = live_stream(on);
    if (stream->capture)
        return CAPTURE_UNSUPPORTED;
    blocks[address].freed = true;
    submit(stream, [=] { bury(address); });
    return SUCCESS;
}

API cuMemHostAlloc(void **at, size_t bytes, unsigned) {
    START_IN_CONTEXT
    if (!bytes)
        return INVALID_VALUE;
    void *pages = mmap(nullptr, round_up(bytes, PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return OUT_OF_MEMORY;
    memset(pages, 0xFF, bytes);
    pinned[static_cast<char *>(pages)] = Pinned{bytes, 0};
    *at = pages;
    return SUCCESS;
}

API cuMemFreeHost(void *at) {
    START_FREEING
    auto found = pinned.find(static_cast<char *>(at));
    if (found == pinned.end())
        violation("cuMemFreeHost of %p", at);
    if (found->second.pending && !current->lost)
        violation("pinned memory is freed under a copy");
    munmap(at, round_up(found->second.bytes, PAGE));
    pinned.erase(found);
    return SUCCESS;
}

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *on) {
    START_IN_CONTEXT
    if (!find(to, bytes))
        return INVALID_VALUE;
    Stream *stream = live_stream(on);
    if (find_pinned(from, bytes))
        return submit_host_copy(stream, from, to, bytes, [=](char *device) { memcpy(device, from, bytes); });
    auto start = static_cast<const char *>(from);
    auto staged = std::make_shared<std::vector<char>>(start, start + bytes);
    return submit_host_copy(stream, from, to, bytes, [=](char *device) { memcpy(device, staged->data(), bytes); });
}

API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *on) {
    START_IN_CONTEXT
    if (!find(from, bytes))
        return INVALID_VALUE;
    Stream *stream = live_stream(on);
    // Pageable memory is written when somebody waits, too: the real one waits by itself, most of the time.
    return submit_host_copy(stream, to, from, bytes, [=](char *device) { memcpy(to, device, bytes); });
}

API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *on) {
    START_IN_CONTEXT
    if (!find(to, bytes) || !find(from, bytes))
        return INVALID_VALUE;
    // Not the stream, which a graph outlives.
    Context *context = current;
    submit(live_stream(on), [=] {
        if (context->lost)
            return;
        if (!is_live(to, bytes) || !is_live(from, bytes))
            return lose(context, ILLEGAL_ADDRESS, "a copy of memory that is not allocated at that time");
        memcpy(reinterpret_cast<char *>(to), reinterpret_cast<char *>(from), bytes);
    });
    return SUCCESS;
}

API cuMemsetD8Async(Address at, unsigned char byte, size_t bytes, void *on) {
    START_IN_CONTEXT
    if (!find(at, bytes))
        return INVALID_VALUE;
    Context *context = current;
    submit(live_stream(on), [=] {
        if (context->lost)
            return;
        if (!is_live(at, bytes))
            return lose(context, ILLEGAL_ADDRESS, "a fill of memory that is not allocated at that time");
        memset(reinterpret_cast<char *>(at), byte, bytes);
    });
    return SUCCESS;
}

// ---- streams and events ----

API cuStreamCreate(void **handle, unsigned) {
    START_IN_CONTEXT
    static int number;
    Stream *stream = new Stream{current};
    stream->number = ++number;
    streams.insert(stream);
    *handle = stream;
    return SUCCESS;
}

API cuStreamDestroy_v2(void *handle) {
    START_FREEING
    Stream *stream = live_stream(handle);
    stream->destroyed = true;
    if (stream->queue.empty()) {
        streams.erase(stream);
        delete stream;
    }
    return SUCCESS;
}

API cuStreamSynchronize(void *handle) {
    START_IN_CONTEXT
    Stream *stream = live_stream(handle);
    if (stream->capture) {
        stream->capture->invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    run_until([&] { return stream->queue.empty(); });
    return current->lost;
}

API cuStreamQuery(void *handle) {
    START_IN_CONTEXT
    Stream *stream = live_stream(handle);
    if (stream->queue.empty())
        return SUCCESS;
    // Whoever asks often enough gets there.
    Access access;
    step();
    return current->lost ? current->lost : NOT_READY;
}

API cuStreamWaitEvent(void *handle, void *event, unsigned) {
    START_IN_CONTEXT
    Stream *stream = live_stream(handle);
    if (stream->capture)
        return CAPTURE_UNSUPPORTED;
    if (auto ticket = live_event(event)->ticket)
        submit(stream, nullptr, ticket);
    return SUCCESS;
}

API cuEventCreate(void **handle, unsigned flags) {
    START_IN_CONTEXT
    Event *event = new Event{current, nullptr, !(flags & 2)};
    events.insert(event);
    *handle = event;
    return SUCCESS;
}

API cuEventDestroy_v2(void *handle) {
    START_FREEING
    Event *event = live_event(handle);
    events.erase(event);
    delete event;
    return SUCCESS;
}

API cuEventRecord(void *handle, void *on) {
    START_IN_CONTEXT
    Event *event = live_event(handle);
    Stream *stream = live_stream(on);
    if (stream->capture)
        return CAPTURE_UNSUPPORTED;
    if (event->context != stream->context)
        return INVALID_HANDLE;
    auto ticket = event->ticket = std::make_shared<Ticket>();
    submit(stream, [=] {
        ticket->milliseconds = now();
        ticket->done = true;
    });
    return SUCCESS;
}

API cuEventQuery(void *handle) {
    START_IN_CONTEXT
    auto ticket = live_event(handle)->ticket;
    if (!ticket || ticket->done)
        return SUCCESS;
    Access access;
    step();
    return current->lost ? current->lost : NOT_READY;
}

API cuEventSynchronize(void *handle) {
    START_IN_CONTEXT
    if (auto ticket = live_event(handle)->ticket)
        run_until([&] { return ticket->done; });
    return current->lost;
}

API cuEventElapsedTime_v2(float *milliseconds, void *from, void *to) {
    START_IN_CONTEXT
    Event *a = live_event(from), *b = live_event(to);
    if (!a->ticket || !b->ticket || !a->timed || !b->timed)
        return INVALID_HANDLE;
    if (!a->ticket->done || !b->ticket->done)
        return NOT_READY;
    *milliseconds = b->ticket->milliseconds - a->ticket->milliseconds;
    return SUCCESS;
}

API cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    return cuEventElapsedTime_v2(milliseconds, from, to);
}

// ---- machine code ----

API cuModuleLoadData(void **handle, const void *image) {
    START_IN_CONTEXT
    auto header = static_cast<const Elf64_Ehdr *>(image);
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != EM_X86_64)
        return INVALID_IMAGE;
    // The table of sections is the last thing in a file of the linker.
    size_t bytes = header->e_shoff + size_t(header->e_shnum) * header->e_shentsize;
    int file = memfd_create("kernel", 0);
    if (write(file, image, bytes) != ssize_t(bytes))
        return INVALID_IMAGE;
    // The name is one of a kind, or the loader would take the file for one that it has: the file stays open as long as it is
    // loaded.
    std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        close(file);
        fprintf(stderr, "fake driver: %s\n", dlerror());
        return INVALID_IMAGE;
    }
    Module *module = new Module{current, library, file};
    modules.insert(module);
    *handle = module;
    return SUCCESS;
}

API cuModuleUnload(void *handle) {
    START_FREEING
    Module *module = live(modules, handle, "module");
    if (module->pending)
        violation("a module is unloaded before %d of its launches have run", module->pending);
    for (Function *function : module->functions)
        delete function;
    dlclose(module->library);
    close(module->file);
    modules.erase(module);
    delete module;
    return SUCCESS;
}

API cuModuleGetFunction(void **handle, void *from, const char *name) {
    START_IN_CONTEXT
    Module *module = live(modules, from, "module");
    void *entry = dlsym(module->library, (std::string("emulator_entry_") + name).c_str());
    if (!entry)
        return NOT_FOUND;
    Function *function = new Function{module, static_cast<const EmulatorEntry *>(entry), 0};
    function->dynamic_shared = DEFAULT_SHARED - function->shared();
    module->functions.push_back(function);
    *handle = function;
    return SUCCESS;
}

// The next of the numbers that FAKE_CUDA_LOCAL lists; 0 after the last.
int local_bytes() {
    static const char *rest = getenv("FAKE_CUDA_LOCAL");
    if (!rest)
        return 0;
    int value = atoi(rest);
    rest = strchr(rest, ',') ? strchr(rest, ',') + 1 : nullptr;
    return value;
}

API cuFuncGetAttribute(int *value, int attribute, void *handle) {
    START_IN_CONTEXT
    Function *function = static_cast<Function *>(handle);
    switch (attribute) {
    case 0: // threads of a block
        *value = function->entry->max_threads;
        return SUCCESS;
    case 1: // static shared memory
        *value = function->shared();
        return SUCCESS;
    case 3: // local memory
        *value = local_bytes();
        return SUCCESS;
    case 4: // registers
        *value = 32;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}

API cuFuncSetAttribute(void *handle, int attribute, int value) {
    START_IN_CONTEXT
    Function *function = static_cast<Function *>(handle);
    if (attribute != 8 || value < 0 || value + function->shared() > MAX_SHARED) // dynamic shared memory
        return INVALID_VALUE;
    function->dynamic_shared = value;
    return SUCCESS;
}

API cuFuncGetParamInfo(void *handle, size_t index, size_t *offset, size_t *bytes) {
    START_IN_CONTEXT
    if (index)
        return INVALID_VALUE;
    *offset = 0;
    *bytes = static_cast<Function *>(handle)->entry->argument_bytes;
    return SUCCESS;
}

API cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void *on, void **parameters, void **) {
    START_IN_CONTEXT
    Function *function = static_cast<Function *>(handle);
    Module *module = live(modules, function->module, "module");
    Stream *stream = live_stream(on);
    uint64_t threads = uint64_t(block_x) * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || grid_x > 0x7FFFFFFF || grid_y > EMULATOR_MAX_GRID_YZ ||
        grid_z > EMULATOR_MAX_GRID_YZ || !threads || threads > function->entry->max_threads || block_z > 64)
        return INVALID_VALUE;
    if (shared > function->dynamic_shared)
        return INVALID_VALUE;
    // Arguments are copied now.
    auto words = static_cast<const char *>(parameters[0]);
    std::vector<char> arguments(words, words + function->entry->argument_bytes);
    EmulatorIndex grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    // A launch that is captured is kept by whoever has the graph.
    bool counted = !stream->capture;
    module->pending += counted;
    submit(stream, [=] {
        live(modules, module, "module");
        launch(function, arguments, grid, block, shared);
        module->pending -= counted;
    });
    return SUCCESS;
}

// ---- graphs ----

API cuStreamBeginCapture_v2(void *handle, int) {
    START_IN_CONTEXT
    Stream *stream = live_stream(handle);
    if (stream->capture)
        return INVALID_VALUE;
    stream->capture = std::make_shared<Graph>();
    return SUCCESS;
}

API cuStreamEndCapture(void *handle, void **graph) {
    START_IN_CONTEXT
    Stream *stream = live_stream(handle);
    if (!stream->capture)
        return INVALID_VALUE;
    std::shared_ptr<Graph> captured = std::move(stream->capture);
    stream->capture.reset();
    *graph = nullptr;
    if (captured->invalid)
        return CAPTURE_INVALIDATED;
    Graph *made = new Graph(*captured);
    graphs.insert(made);
    *graph = made;
    return SUCCESS;
}

API cuGraphInstantiateWithFlags(void **handle, void *graph, unsigned long long) {
    START_IN_CONTEXT
    Executable *executable = new Executable{current, std::make_shared<Graph>(*live(graphs, graph, "graph"))};
    executables.insert(executable);
    *handle = executable;
    return SUCCESS;
}

API cuGraphDestroy(void *handle) {
    START_FREEING
    Graph *graph = live(graphs, handle, "graph");
    graphs.erase(graph);
    delete graph;
    return SUCCESS;
}

API cuGraphExecDestroy(void *handle) {
    START_FREEING
    Executable *executable = live(executables, handle, "executable graph");
    executables.erase(executable);
    delete executable;
    return SUCCESS;
}

API cuGraphLaunch(void *handle, void *on) {
    START_IN_CONTEXT
    auto graph = live(executables, handle, "executable graph")->graph;
    submit(live_stream(on), [=] {
        for (const Operation &operation : graph->operations)
            operation.run();
    });
    return SUCCESS;
}

// ---- for stand-ins of other libraries ----

// Work of a library on a stream, with the memory of devices accessible.
API fakeSubmit(void *on, void (*work)(void *), void *data) {
    START_IN_CONTEXT
    submit(live_stream(on), [=] {
        Access access;
        work(data);
    });
    return SUCCESS;
}

// ---- the report ----

__attribute__((destructor)) static void report() {
    if (calls.empty() || getpid() != process)
        return;
    std::lock_guard<std::recursive_mutex> guard(mutex);
    int references = 0;
    size_t bytes = 0;
    for (Context &context : contexts)
        references += context.references;
    for (auto &[_, block] : blocks)
        bytes += block.bytes;
    fprintf(stderr,
            "fake driver: at exit: contexts %d, streams %zu, events %zu, pools %zu, modules %zu, graphs %zu, memory %zu, "
            "pinned %zu\n",
            references, streams.size(), events.size(), pools.size(), modules.size(), graphs.size() + executables.size(),
            bytes, pinned.size());
    for (auto &[name, count] : calls)
        fprintf(stderr, "fake driver: %s was called %d times\n", name.c_str(), count);
}
