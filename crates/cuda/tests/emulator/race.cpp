// Finds data races: two accesses to a byte, one of them a write, with nothing between them that orders them. It also
// finds reads of shared memory that the block has not written, and accesses beyond dynamic shared memory.
//
// It answers the calls that the compiler inserts for -fsanitize=thread, in place of the library that usually does: what
// orders threads of a block is barriers alone, and nothing orders blocks, so exact answers are cheap. What is ordered:
//
// * all that came before the launch, before what the launch does;
// * what the threads of a block did before a barrier, before what they do after it;
// * what the lanes of a __syncwarp did before it, before what these lanes do after it. A shuffle orders nothing.
//
// Each byte remembers its last write, and as many reads since as it takes to find a race of the next write with one of
// them, if it has a race with any: two reads by different warps are enough, since only a barrier orders both before
// something else; reads by the lanes of one warp are all remembered.
#include "race.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <memory>
#include <unordered_map>
#include <vector>

namespace {

// One access. Zero is none.
struct Access {
    // Which block of which launch: blocks are numbered through the life of the process.
    uint32_t block;
    uint32_t thread : 10;
    // How often threads of the block had met when this thread last met others.
    uint32_t time : 22;
    // The code, as a distance from the launch's anchor.
    int32_t site;
};

struct Byte {
    Access write;
    Access reads[2];
    // More reads, if all of them are by one warp.
    std::unique_ptr<std::vector<Access>> more;
};

constexpr uintptr_t PAGE_BYTES = 4096;
struct Page {
    Byte bytes[PAGE_BYTES];
};

constexpr unsigned WARP = 32;
// Of about 200 KiB each.
constexpr size_t MAX_PAGES = 256;

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t recent_number = UINTPTR_MAX;
Page *recent;

uint32_t first_block_of_launch = 1;
uint32_t block;
uintptr_t anchor;
race::Range shared[2];
race::Range beyond_shared;
race::Range stacks;

// Within the block: how often threads have met; when all met last; when each thread met others last; and for each thread
// the latest meeting through which it knows of each lane of its warp.
uint32_t meetings;
uint32_t last_barrier;
uint32_t last_meeting[EMULATOR_MAX_THREADS];
uint32_t knows[EMULATOR_MAX_THREADS][WARP];

Page &page(uintptr_t number) {
    if (number != recent_number) {
        std::unique_ptr<Page> &slot = pages[number];
        if (slot == nullptr) {
            slot = std::make_unique<Page>();
        }
        recent = slot.get();
        recent_number = number;
    }
    return *recent;
}

bool contains(race::Range range, uintptr_t address) {
    return address >= reinterpret_cast<uintptr_t>(range.begin) && address < reinterpret_cast<uintptr_t>(range.end);
}

// The place in the text, if addr2line can tell.
std::string place(uintptr_t code) {
    Dl_info info;
    if (dladdr(reinterpret_cast<void *>(code), &info) == 0) {
        return "an unknown place";
    }
    char offset[32];
    snprintf(offset, sizeof offset, "0x%zx", code - reinterpret_cast<uintptr_t>(info.dli_fbase));
    std::string command = "addr2line -s -e '" + std::string(info.dli_fname) + "' " + offset;
    char line[512] = "";
    if (FILE *pipe = popen(command.c_str(), "r")) {
        if (fgets(line, sizeof line, pipe) == nullptr) {
            line[0] = 0;
        }
        pclose(pipe);
    }
    line[strcspn(line, "\n")] = 0;
    return line[0] != 0 && line[0] != '?' ? line : std::string(info.dli_fname) + "+" + offset;
}

// What `access` did happened before what the current thread does now.
bool is_ordered(const Access &access, unsigned thread, bool is_shared) {
    if (access.block != block) {
        return access.block < first_block_of_launch || is_shared;
    }
    if (access.thread == thread || access.time < last_barrier) {
        return true;
    }
    return access.thread / WARP == thread / WARP && access.time < knows[thread][access.thread % WARP];
}

bool is_same_warp(const Access &a, const Access &b) {
    return a.block == b.block && a.thread / WARP == b.thread / WARP;
}

void remember_read(Byte &byte, const Access &now, bool is_shared) {
    // A read that happened before this one is not needed any more: what this one happens before, that one does too.
    auto takes_place_of = [&](Access &read) {
        if (read.block == 0 || is_ordered(read, now.thread, is_shared)) {
            read = now;
            return true;
        }
        return false;
    };
    auto &[first, second] = byte.reads;
    if (takes_place_of(first) || takes_place_of(second) || !is_same_warp(first, second)) {
        return;
    }
    if (!is_same_warp(first, now)) {
        second = now;
        byte.more = nullptr;
        return;
    }
    if (byte.more == nullptr) {
        byte.more = std::make_unique<std::vector<Access>>();
    }
    if (std::none_of(byte.more->begin(), byte.more->end(), takes_place_of)) {
        byte.more->push_back(now);
    }
}

void report(uintptr_t code, bool is_write, const Access &other, bool other_is_write) {
    auto name = [](bool write) { return write ? std::string("write") : std::string("read"); };
    std::string message = "data race: the " + name(is_write) + " at " + place(code) + " by " +
                          runtime_thread_name(runtime_thread()) + " and the " + name(other_is_write) + " at " +
                          place(anchor + static_cast<uintptr_t>(static_cast<intptr_t>(other.site)));
    message += other.block == block ? " by " + runtime_thread_name(other.thread) : " by another block";
    runtime_fail(message);
}

void access(const void *pointer, size_t size, bool is_write, void *return_address) {
    unsigned thread = runtime_thread();
    auto begin = reinterpret_cast<uintptr_t>(pointer);
    if (thread == -1u || contains(stacks, begin)) {
        return;
    }
    auto code = reinterpret_cast<uintptr_t>(return_address) - 1;
    Access now{block, thread, last_meeting[thread], static_cast<int32_t>(static_cast<intptr_t>(code - anchor))};
    if (contains(beyond_shared, begin + size - 1)) {
        runtime_fail("the access at " + place(code) + " by " + runtime_thread_name(thread) +
                     " is beyond dynamic shared memory");
    }
    for (uintptr_t address = begin; address < begin + size; address++) {
        Byte &byte = page(address / PAGE_BYTES).bytes[address % PAGE_BYTES];
        bool is_shared = contains(shared[0], address) || contains(shared[1], address);
        if (byte.write.block != 0 && !is_ordered(byte.write, thread, is_shared)) {
            report(code, is_write, byte.write, true);
        }
        if (is_write) {
            auto check = [&](const Access &read) {
                if (read.block != 0 && !is_ordered(read, thread, is_shared)) {
                    report(code, is_write, read, false);
                }
            };
            std::for_each(std::begin(byte.reads), std::end(byte.reads), check);
            if (byte.more != nullptr) {
                std::for_each(byte.more->begin(), byte.more->end(), check);
            }
            byte = {now, {}, nullptr};
            continue;
        }
        if (is_shared && byte.write.block != block) {
            runtime_fail("the read at " + place(code) + " by " + runtime_thread_name(thread) +
                         " is of shared memory that its block has not written");
        }
        remember_read(byte, now, is_shared);
    }
}

}  // namespace

namespace race {

void begin_launch(const void *code) {
    anchor = reinterpret_cast<uintptr_t>(code);
    first_block_of_launch = block + 1;
    // What the pages tell is of launches before this one.
    if (pages.size() > MAX_PAGES) {
        pages.clear();
        recent_number = UINTPTR_MAX;
    }
}

void begin_block(unsigned threads) {
    block++;
    meetings = 0;
    last_barrier = 0;
    memset(last_meeting, 0, threads * sizeof last_meeting[0]);
    memset(knows, 0, threads * sizeof knows[0]);
}

void set_shared(Range fixed, Range dynamic, Range beyond) {
    shared[0] = fixed;
    shared[1] = dynamic;
    beyond_shared = beyond;
}

void set_stacks(Range range) {
    stacks = range;
}

void barrier() {
    last_barrier = ++meetings;
    std::fill_n(last_meeting, EMULATOR_MAX_THREADS, last_barrier);
}

void warp_barrier(unsigned first_thread, unsigned mask) {
    meetings++;
    // What one of the lanes knows, all of them know now; and they know of each other.
    uint32_t all[WARP] = {};
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned of = 0; of < WARP && (mask >> lane & 1) != 0; of++) {
            all[of] = std::max(all[of], knows[first_thread + lane][of]);
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if ((mask >> lane & 1) != 0) {
            all[lane] = meetings;
            last_meeting[first_thread + lane] = meetings;
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if ((mask >> lane & 1) != 0) {
            memcpy(knows[first_thread + lane], all, sizeof all);
        }
    }
}

}  // namespace race

// ---- what the compiler calls ----

#define ACCESS(size)                                                                                                   \
    void __tsan_read##size(void *address) { access(address, size, false, __builtin_return_address(0)); }              \
    void __tsan_write##size(void *address) { access(address, size, true, __builtin_return_address(0)); }              \
    void __tsan_unaligned_read##size(void *address) { access(address, size, false, __builtin_return_address(0)); }    \
    void __tsan_unaligned_write##size(void *address) { access(address, size, true, __builtin_return_address(0)); }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void *address, size_t size) { access(address, size, false, __builtin_return_address(0)); }
void __tsan_write_range(void *address, size_t size) { access(address, size, true, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
}
