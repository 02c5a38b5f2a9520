// What the run time tells the race detector, and what it asks of it. The detector (race.cpp) hears of memory accesses
// only from texts that are compiled with -fsanitize=thread.
#pragma once

#include "emulator.h"
#include <string>

namespace race {

// Nothing of what happened before has a race with what comes now. `anchor` is code near the text's.
void begin_launch(const void *anchor);

// What the threads of this block do is unordered with what those of the launch's other blocks do.
void begin_block(unsigned threads);

// The memory that each block has afresh: a block's access to it has no race with other blocks', and it may not read
// what it has not written. One range is the text's static shared memory, another one the launch's dynamic one, and the
// last one is what lies beyond that.
struct Range {
    const char *begin, *end;
};
void set_shared(Range fixed, Range dynamic, Range beyond);

// Memory of the threads' own, and of the scheduler.
void set_stacks(Range stacks);

// All threads of the block have met.
void barrier();

// These lanes of the warp that begins at this thread have met.
void warp_barrier(unsigned first_thread, unsigned mask);

}  // namespace race

// From the run time: the thread that runs, counted within its block, or -1u if none does; ending it with an error, after
// which the launch fails; and what messages call it.
unsigned runtime_thread();
[[noreturn]] void runtime_fail(const std::string &message);
std::string runtime_thread_name(unsigned thread);
