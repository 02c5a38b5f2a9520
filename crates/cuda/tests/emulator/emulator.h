// The emulator's C interface: CUDA kernels on the CPU, for tests on machines without a GPU.
//
// A kernel's text is compiled as C++ behind cuda.h, which gives CUDA's names a meaning, into a shared library. Each entry
// of the text becomes one exported `EmulatorEntry`. The run time, which runs entries, is one shared library
// (runtime.cpp and race.cpp); the libraries of texts are linked with it, and so is whoever launches: `runner.cpp`, a
// program that does so for a file of jobs, or a stand-in for a driver. A second copy of it in a process does not work.
//
// One host thread runs everything: the blocks of a launch one after another, and each thread of a block as a fiber. The
// order of both is random, and repeats with the seed. Calls from several host threads have to be serialized by the caller.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// One `__global__` function. Exported as the symbol `emulator_entry_` + its name in the text (and + `_` + the key of the
// text in a library of several texts, since names are unique only within a text).
typedef struct EmulatorEntry {
    // Runs one thread. `arguments` is the kernel's one parameter, a struct of 8-byte words.
    void (*body)(const void *arguments);
    // The size of that struct.
    unsigned long argument_bytes;
    // The static shared memory of the text, by all of its entries; both null if it has none.
    char *shared_begin;
    char *shared_end;
    // The most threads a block of it may have, as its __launch_bounds__ say.
    unsigned max_threads;
} EmulatorEntry;

typedef struct EmulatorIndex {
    unsigned x, y, z;
} EmulatorIndex;

// Limits of a launch, which are those of a GPU of compute capability 9.0.
enum {
    EMULATOR_MAX_THREADS = 1024,
    EMULATOR_MAX_SHARED = 227 * 1024,
    EMULATOR_MAX_STATIC_SHARED = 48 * 1024,
    EMULATOR_MAX_GRID_YZ = 65535,
};

// Runs a launch to its end. Returns null, or what went wrong, which stays valid until the next call: a launch that no
// device would take, undefined behaviour between the threads of a block, or a data race (if the text is compiled with
// the calls that race.cpp answers). What the blocks before it have written stays written.
const char *emulator_launch(const EmulatorEntry *entry, const void *arguments, EmulatorIndex grid, EmulatorIndex block,
                            unsigned long shared_bytes);

// Every order and every poison of the launches from here on follows from this number.
void emulator_seed(unsigned long long seed);

#ifdef __cplusplus
}
#endif
