// Runs the threads of a launch as fibers, and reports what CUDA leaves undefined between the threads of a block.
//
// One fiber per thread of ONE block: blocks run one after another. A fiber runs until it waits (at a barrier, or for the
// other lanes of a warp operation) or ends. When no fiber can run, the scheduler decides who may go on:
//
// * a warp operation goes on when all lanes of its mask wait at it: at the same operation, line and mask. A lane that has
//   exited, or that the block does not have, is an error;
// * a barrier goes on when all threads of the block wait at the same line. CUDA leaves it undefined what happens when
//   some of them have exited, so this is an error too;
// * if nothing goes on, some lanes of a warp operation are at another one, or at a barrier: an error.
//
// Not shown: reordering of memory accesses within a thread, anything about time, and what runs beside what.
// This file and race.cpp are never compiled with a sanitizer. EMULATOR_ADDRESS says that the texts are compiled with
// AddressSanitizer, which has to be told of fibers and of the end of shared memory.
#include "emulator.h"
#include "race.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <sys/mman.h>
#include <vector>

#ifdef EMULATOR_ADDRESS
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define IF_ADDRESS(...) __VA_ARGS__
#else
#define IF_ADDRESS(...)
#endif

// Bytes beyond the dynamic shared memory of a launch, which are checked after each block.
static constexpr size_t GUARD_BYTES = 256;
extern "C" {
alignas(4096) unsigned char emulator_dynamic_shared[EMULATOR_MAX_SHARED + GUARD_BYTES];
}

namespace {

// ---- switching stacks ----

constexpr size_t PAGE = 4096;
constexpr size_t STACK_BYTES = 32 * PAGE;

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack, stores the stack pointer, and continues at the other one.
extern "C" void emulator_switch(void **save, void *to);
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch,.-emulator_switch
)");

void *new_stack_pointer(char *stack, void (*start)()) {
    auto top = reinterpret_cast<void **>(stack + STACK_BYTES);
    *--top = nullptr;  // where a call would have left its return address: `start` finds the stack as a function does
    *--top = reinterpret_cast<void *>(start);
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    return top;
}
#else
#error "the emulator switches stacks on x86-64 only"
#endif

// ---- state ----

enum class State : uint8_t { Ready, Barrier, Warp, Done };

struct Fiber {
    void *stack_pointer;
    State state;
    EmulatorIndex index;
    // Where it waits, and for what.
    int line;
    int operation;
    unsigned mask;
    unsigned source;
    unsigned long long value;
    // What AddressSanitizer keeps for it.
    void *fake_stack;
};

struct Launch {
    const EmulatorEntry *entry;
    const void *arguments;
    EmulatorIndex grid, block_size, block;
    unsigned threads;
    size_t shared_bytes;
};

constexpr unsigned WARP = 32;
// The operations of EmulatorWarpOperation in cuda.h.
enum { SHUFFLE, SYNC_WARP };

Launch launch;
Fiber fibers[EMULATOR_MAX_THREADS];
unsigned current = -1u;
char *stacks;
void *scheduler_stack_pointer;
uint64_t random_state = 1;
std::string failure;
IF_ADDRESS(const void *scheduler_stack; size_t scheduler_stack_bytes; void *scheduler_fake_stack;)

char *stack_of(unsigned thread) {
    return stacks + thread * (STACK_BYTES + PAGE) + PAGE;
}

uint64_t next_random() {
    // splitmix64
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

// Visits 0..count in a random order: one of the affine ones, which take no memory.
struct Order {
    uint64_t count, start, stride;

    explicit Order(uint64_t count) : count(count), start(next_random() % count), stride(1 + next_random() % count) {
        while (std::gcd(stride, count) != 1) {
            stride = stride % count + 1;
        }
    }
    uint64_t operator()(uint64_t i) const { return (start + i * stride) % count; }
};

std::string text(EmulatorIndex i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string at_line(int line) {
    return "line " + std::to_string(line);
}

// ---- fibers ----

void to_fiber(unsigned thread) {
    current = thread;
    IF_ADDRESS(__sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_of(thread), STACK_BYTES);)
    emulator_switch(&scheduler_stack_pointer, fibers[thread].stack_pointer);
    IF_ADDRESS(__sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);)
    current = -1u;
}

void to_scheduler() {
    Fiber &fiber = fibers[current];
    IF_ADDRESS(__sanitizer_start_switch_fiber(fiber.state == State::Done ? nullptr : &fiber.fake_stack, scheduler_stack,
                                              scheduler_stack_bytes);)
    emulator_switch(&fiber.stack_pointer, scheduler_stack_pointer);
    IF_ADDRESS(__sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);)
}

void run_thread() {
    IF_ADDRESS(__sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);)
    launch.entry->body(launch.arguments);
    fibers[current].state = State::Done;
    to_scheduler();
    abort();  // nobody switches to a thread that has ended
}

// Memory for the stacks of a block, each behind a page that may not be touched. Null if there is none.
char *map_stacks() {
    size_t bytes = EMULATOR_MAX_THREADS * (STACK_BYTES + PAGE);
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    auto base = static_cast<char *>(memory);
    for (unsigned i = 0; i < EMULATOR_MAX_THREADS; i++) {
        if (mprotect(base + i * (STACK_BYTES + PAGE), PAGE, PROT_NONE) != 0) {
            munmap(memory, bytes);
            return nullptr;
        }
    }
    race::set_stacks({base, base + bytes});
    return base;
}

// ---- shared memory ----

unsigned char poison;

// Not `memset`, which AddressSanitizer watches: between static arrays lies memory that nobody may touch otherwise.
void fill(unsigned char *begin, unsigned char *end) {
    for (unsigned char *p = begin; p != end; p++) {
        *p = poison;
        asm volatile("" ::: "memory");
    }
}

void poison_shared() {
    // Sometimes not-a-number and sometimes a number, since a maximum may hide the one and a comparison the other.
    poison = next_random() % 2 == 0 ? 0xff : 0xcb;
    fill(reinterpret_cast<unsigned char *>(launch.entry->shared_begin),
         reinterpret_cast<unsigned char *>(launch.entry->shared_end));
    fill(emulator_dynamic_shared, emulator_dynamic_shared + launch.shared_bytes + GUARD_BYTES);
}

bool shared_guard_is_intact() {
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        if (emulator_dynamic_shared[launch.shared_bytes + i] != poison) {
            return false;
        }
    }
    return true;
}

// ---- who may go on ----

std::string lane_name(unsigned first, unsigned lane) {
    return runtime_thread_name(first + lane) + " (lane " + std::to_string(lane) + ")";
}

bool is_same_operation(const Fiber &a, const Fiber &b) {
    return a.operation == b.operation && a.line == b.line && a.mask == b.mask;
}

// Lets the lanes of one warp operation go on. `waiting`: the lanes of the warp that wait at any.
// Returns the lanes that went on, or none if others have yet to come.
unsigned release_warp_operation(unsigned first, unsigned lane, unsigned waiting) {
    const Fiber &asks = fibers[first + lane];
    auto place = [&] { return (asks.operation == SHUFFLE ? "a shuffle at " : "a __syncwarp at ") + at_line(asks.line); };
    bool ready = true;
    for (unsigned k = 0; k < WARP; k++) {
        if ((asks.mask >> k & 1) == 0) {
            continue;
        }
        if (first + k >= launch.threads) {
            failure = "the mask of " + place() + " has a lane that the block does not have: lane " + std::to_string(k) +
                      ", asked for by " + lane_name(first, lane);
            return 0;
        }
        const Fiber &other = fibers[first + k];
        if (other.state == State::Done) {
            failure = "the mask of " + place() + " has a lane that has exited: " + lane_name(first, k) +
                      ", asked for by " + lane_name(first, lane);
            return 0;
        }
        // A lane that waits elsewhere may still come.
        ready = ready && (waiting >> k & 1) != 0 && is_same_operation(asks, other);
    }
    if (!ready) {
        return 0;
    }
    unsigned mask = asks.mask;
    unsigned long long values[WARP];
    for (unsigned k = 0; k < WARP; k++) {
        values[k] = (mask >> k & 1) != 0 ? fibers[first + k].value : 0;
    }
    for (unsigned k = 0; k < WARP; k++) {
        if ((mask >> k & 1) == 0) {
            continue;
        }
        Fiber &fiber = fibers[first + k];
        if (fiber.operation == SHUFFLE) {
            if (fiber.source >= WARP || (mask >> fiber.source & 1) == 0) {
                failure = place() + " reads a lane that its mask does not have: lane " + std::to_string(fiber.source) +
                          ", by " + lane_name(first, k);
                return 0;
            }
            fiber.value = values[fiber.source];
        }
        fiber.state = State::Ready;
    }
    if (asks.operation == SYNC_WARP) {
        race::warp_barrier(first, mask);
    }
    return mask;
}

bool release_warps() {
    bool any = false;
    for (unsigned first = 0; first < launch.threads; first += WARP) {
        unsigned waiting = 0;
        for (unsigned k = 0; k < WARP && first + k < launch.threads; k++) {
            waiting |= static_cast<unsigned>(fibers[first + k].state == State::Warp) << k;
        }
        for (unsigned k = 0; k < WARP; k++) {
            if ((waiting >> k & 1) == 0) {
                continue;
            }
            unsigned released = release_warp_operation(first, k, waiting);
            if (!failure.empty()) {
                return false;
            }
            waiting &= ~released;
            any |= released != 0;
        }
    }
    return any;
}

// Which lane waits in vain for which.
std::string deadlock() {
    for (unsigned i = 0; i < launch.threads; i++) {
        for (unsigned k = 0; k < WARP && fibers[i].state == State::Warp; k++) {
            unsigned other = i / WARP * WARP + k;
            if ((fibers[i].mask >> k & 1) == 0) {
                continue;
            }
            std::string waits = runtime_thread_name(i) + " at " + at_line(fibers[i].line) + ", ";
            waits += runtime_thread_name(other) + " at " + at_line(fibers[other].line);
            if (fibers[other].state == State::Barrier) {
                return "a lane of a warp operation is at a barrier: " + waits;
            }
            if (!is_same_operation(fibers[i], fibers[other])) {
                return "lanes of a warp are at different warp operations: " + waits;
            }
        }
    }
    return "deadlock";  // not reached: an operation at which all its lanes wait goes on
}

// No fiber can run. Returns whether the block goes on; if not, it has ended or failed.
bool release_barrier() {
    unsigned at[4] = {};
    unsigned example[4] = {};
    for (unsigned i = 0; i < launch.threads; i++) {
        auto state = static_cast<unsigned>(fibers[i].state);
        at[state]++;
        example[state] = i;
    }
    auto first = [&](State state) { return example[static_cast<unsigned>(state)]; };
    auto count = [&](State state) { return at[static_cast<unsigned>(state)]; };
    if (count(State::Done) == launch.threads) {
        return false;
    }
    if (count(State::Warp) != 0) {
        failure = deadlock();
        return false;
    }
    unsigned waits = first(State::Barrier);
    std::string barrier = runtime_thread_name(waits) + " waits at the barrier of " + at_line(fibers[waits].line);
    if (count(State::Done) != 0) {
        failure = "not all threads of a block are at a barrier: " + barrier + ", " +
                  runtime_thread_name(first(State::Done)) + " has exited";
        return false;
    }
    for (unsigned i = 0; i < launch.threads; i++) {
        if (fibers[i].line != fibers[waits].line) {
            failure = "threads of a block are at different barriers: " + barrier + ", " + runtime_thread_name(i) +
                      " at that of " + at_line(fibers[i].line);
            return false;
        }
    }
    for (unsigned i = 0; i < launch.threads; i++) {
        fibers[i].state = State::Ready;
    }
    race::barrier();
    return true;
}

void run_block() {
    poison_shared();
    race::begin_block(launch.threads);
    for (unsigned i = 0; i < launch.threads; i++) {
        const EmulatorIndex &size = launch.block_size;
        fibers[i] = {};
        fibers[i].stack_pointer = new_stack_pointer(stack_of(i), run_thread);
        fibers[i].index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }
    while (failure.empty()) {
        Order order(launch.threads);
        for (unsigned i = 0; i < launch.threads; i++) {
            auto thread = static_cast<unsigned>(order(i));
            if (fibers[thread].state == State::Ready) {
                to_fiber(thread);
                if (!failure.empty()) {
                    return;
                }
            }
        }
        if (!release_warps() && (!failure.empty() || !release_barrier())) {
            break;
        }
    }
    if (failure.empty() && !shared_guard_is_intact()) {
        failure = "the block wrote beyond its dynamic shared memory of " + std::to_string(launch.shared_bytes) +
                  " bytes";
    }
}

// What no device would take.
std::string refusal() {
    const EmulatorIndex &grid = launch.grid, &block = launch.block_size;
    auto product = static_cast<unsigned long long>(block.x) * block.y * block.z;
    auto fixed = static_cast<size_t>(launch.entry->shared_end - launch.entry->shared_begin);
    IF_ADDRESS(fixed = 0;)  // it has gaps for AddressSanitizer, which are not the text's
    if (product == 0 || product > EMULATOR_MAX_THREADS || block.x > EMULATOR_MAX_THREADS || block.z > 64) {
        return "no device runs a block of " + text(block) + " threads";
    }
    if (product > launch.entry->max_threads) {
        return "the kernel's __launch_bounds__ are " + std::to_string(launch.entry->max_threads) + " threads, not " +
               std::to_string(product);
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > EMULATOR_MAX_GRID_YZ ||
        grid.z > EMULATOR_MAX_GRID_YZ) {
        return "no device runs a grid of " + text(grid) + " blocks";
    }
    if (fixed > EMULATOR_MAX_STATIC_SHARED || launch.shared_bytes > EMULATOR_MAX_SHARED - fixed) {
        return "no device has " + std::to_string(fixed) + " + " + std::to_string(launch.shared_bytes) +
               " bytes of static and dynamic shared memory for a block";
    }
    return {};
}

}  // namespace

unsigned runtime_thread() {
    return current;
}

void runtime_fail(const std::string &message) {
    failure = message;
    to_scheduler();
    abort();  // the launch has failed, so nobody comes back
}

std::string runtime_thread_name(unsigned thread) {
    return "thread " + text(fibers[thread].index);
}

extern "C" {

EmulatorIndex emulator_thread_index() {
    return fibers[current].index;
}

EmulatorIndex emulator_block_index() {
    return launch.block;
}

EmulatorIndex emulator_block_size() {
    return launch.block_size;
}

EmulatorIndex emulator_grid_size() {
    return launch.grid;
}

unsigned emulator_lane() {
    return current % WARP;
}

void emulator_sync_block(int line) {
    Fiber &fiber = fibers[current];
    fiber.state = State::Barrier;
    fiber.line = line;
    to_scheduler();
}

unsigned long long emulator_warp(int operation, unsigned mask, unsigned long long value, unsigned source, int line) {
    Fiber &fiber = fibers[current];
    if ((mask >> current % WARP & 1) == 0) {
        runtime_fail("the mask of a warp operation at " + at_line(line) + " does not have the lane that calls it: " +
                     runtime_thread_name(current));
    }
    fiber.state = State::Warp;
    fiber.operation = operation;
    fiber.line = line;
    fiber.mask = mask;
    fiber.source = source;
    fiber.value = value;
    to_scheduler();
    return fiber.value;
}

void emulator_seed(unsigned long long seed) {
    random_state = seed;
}

const char *emulator_launch(const EmulatorEntry *entry, const void *arguments, EmulatorIndex grid, EmulatorIndex block,
                            unsigned long shared_bytes) {
    launch = {entry, arguments, grid, block, {}, 0, shared_bytes};
    failure = refusal();
    if (failure.empty() && stacks == nullptr) {
        stacks = map_stacks();
        if (stacks == nullptr) {
            failure = "the emulator cannot get memory for stacks";
        }
    }
    if (!failure.empty()) {
        return failure.c_str();
    }
    launch.threads = block.x * block.y * block.z;
    auto dynamic = reinterpret_cast<const char *>(emulator_dynamic_shared);
    race::begin_launch(reinterpret_cast<const void *>(entry->body));
    race::set_shared({entry->shared_begin, entry->shared_end}, {dynamic, dynamic + shared_bytes},
                     {dynamic + shared_bytes, dynamic + sizeof emulator_dynamic_shared});
    IF_ADDRESS(__asan_unpoison_memory_region(emulator_dynamic_shared, shared_bytes);
               __asan_poison_memory_region(emulator_dynamic_shared + shared_bytes,
                                           sizeof emulator_dynamic_shared - shared_bytes);)

    uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    Order order(blocks);
    for (uint64_t i = 0; i < blocks && failure.empty(); i++) {
        uint64_t at = order(i);
        launch.block = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                        static_cast<unsigned>(at / grid.x / grid.y)};
        run_block();
    }
    if (failure.empty()) {
        return nullptr;
    }
    failure += "; block " + text(launch.block) + " of " + text(grid) + ", " + text(block) + " threads each";
    // Threads that stay where they were leave marks of their stack frames behind.
    IF_ADDRESS(__asan_unpoison_memory_region(stacks, EMULATOR_MAX_THREADS * (STACK_BYTES + PAGE));)
    return failure.c_str();
}

}  // extern "C"
