// Runs a file of jobs: `runner JOBS RESULTS`. A job is some buffers and the launches over them, in order; its results are
// the bytes of the buffers.
//
// JOBS, in numbers of 8 bytes unless said otherwise (a string is its length and its bytes, without padding):
//
//     limit of a job in seconds of CPU time, count of jobs, then for each job
//       seed
//       count of buffers; for each: offset from an address that is a multiple of 256, size, the bytes
//       count of launches; for each:
//         library (string), entry's symbol (string), grid x y z, block x y z, bytes of dynamic shared memory
//         count of argument words, the words
//         count of relocations; for each: index of a word, index of a buffer, offset: the word becomes that address
//
// RESULTS: the bytes of all buffers of all jobs. Standard output says `JOB LAUNCH` before each launch, so that whoever
// started this knows which one a crash or a sanitizer's report is about. Exit status 0: all jobs ran. 1: a launch failed,
// and standard error says why. 2: the file cannot be used.
#include "emulator.h"

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <string>
#include <sys/time.h>
#include <vector>

#ifdef EMULATOR_ADDRESS
#include <sanitizer/asan_interface.h>
extern "C" const char *__asan_default_options() {
    return "detect_leaks=0:abort_on_error=0";
}
extern "C" const char *__ubsan_default_options() {
    return "print_stacktrace=1";
}
#endif

namespace {

[[noreturn]] __attribute__((format(printf, 2, 3))) void give_up(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(nullptr);
    _Exit(status);
}

std::vector<char> read_file(const char *path) {
    std::vector<char> bytes;
    FILE *file = fopen(path, "rb");
    if (file == nullptr) {
        give_up(2, "%s cannot be read", path);
    }
    char part[1 << 16];
    while (size_t count = fread(part, 1, sizeof part, file)) {
        bytes.insert(bytes.end(), part, part + count);
    }
    fclose(file);
    return bytes;
}

class Reader {
  public:
    explicit Reader(std::vector<char> bytes) : bytes(std::move(bytes)) {}

    const char *take(size_t count) {
        if (count > bytes.size() - at) {
            give_up(2, "the file of jobs ends early");
        }
        at += count;
        return bytes.data() + at - count;
    }
    uint64_t number() {
        uint64_t value;
        memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }
    std::string string() {
        size_t count = number();
        return std::string(take(count), count);
    }
    EmulatorIndex index() {
        auto x = static_cast<unsigned>(number());
        auto y = static_cast<unsigned>(number());
        auto z = static_cast<unsigned>(number());
        return {x, y, z};
    }

  private:
    std::vector<char> bytes;
    size_t at = 0;
};

// Memory of a kernel. Its last byte is the last one of an allocation, for AddressSanitizer; without that, guards on
// both sides tell of writes.
class Buffer {
  public:
    Buffer(size_t offset, size_t size, const char *bytes) : count(size), before(GUARD + offset) {
        void *memory = nullptr;
        if (posix_memalign(&memory, ALIGNMENT, before + size + AFTER) != 0) {
            give_up(2, "there is no memory for a buffer of %zu bytes", size);
        }
        base = static_cast<unsigned char *>(memory);
        memset(base, PATTERN, before);
        memset(base + before + size, PATTERN, AFTER);
        memcpy(data(), bytes, size);
#ifdef EMULATOR_ADDRESS
        __asan_poison_memory_region(base, before);
#endif
    }
    ~Buffer() { free(base); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    unsigned char *data() const { return base + before; }
    size_t size() const { return count; }
    bool guards_are_intact() const {
#ifndef EMULATOR_ADDRESS
        for (size_t i = 0; i < before; i++) {
            if (base[i] != PATTERN) {
                return false;
            }
        }
        for (size_t i = 0; i < AFTER; i++) {
            if (data()[count + i] != PATTERN) {
                return false;
            }
        }
#endif
        return true;
    }

  private:
    static constexpr size_t ALIGNMENT = 256;
    static constexpr size_t GUARD = 256;
#ifdef EMULATOR_ADDRESS
    static constexpr size_t AFTER = 0;
#else
    static constexpr size_t AFTER = 256;
#endif
    static constexpr unsigned char PATTERN = 0xa5;

    unsigned char *base;
    size_t count;
    size_t before;
};

const EmulatorEntry *find_entry(const std::string &library, const std::string &symbol) {
    static std::map<std::string, void *> libraries;
    void *&handle = libraries[library];
    if (handle == nullptr) {
        handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            give_up(2, "%s", dlerror());
        }
    }
    void *entry = dlsym(handle, symbol.c_str());
    if (entry == nullptr) {
        give_up(2, "%s", dlerror());
    }
    return static_cast<const EmulatorEntry *>(entry);
}

void run_launch(Reader &jobs, const std::vector<std::unique_ptr<Buffer>> &buffers) {
    std::string library = jobs.string();
    std::string symbol = jobs.string();
    const EmulatorEntry *entry = find_entry(library, symbol);
    EmulatorIndex grid = jobs.index();
    EmulatorIndex block = jobs.index();
    size_t shared = jobs.number();

    std::vector<uint64_t> words(jobs.number());
    for (uint64_t &word : words) {
        word = jobs.number();
    }
    size_t relocations = jobs.number();
    for (size_t i = 0; i < relocations; i++) {
        uint64_t word = jobs.number();
        uint64_t buffer = jobs.number();
        uint64_t offset = jobs.number();
        if (word >= words.size() || buffer >= buffers.size()) {
            give_up(2, "a relocation of word %zu to buffer %zu: there is none", size_t(word), size_t(buffer));
        }
        words[word] = reinterpret_cast<uint64_t>(buffers[buffer]->data()) + offset;
    }
    if (words.size() * sizeof(uint64_t) != entry->argument_bytes) {
        give_up(1, "the launch passes %zu words of arguments, the kernel takes %lu bytes", words.size(),
                entry->argument_bytes);
    }
    if (const char *failure = emulator_launch(entry, words.data(), grid, block, shared)) {
        give_up(1, "%s", failure);
    }
    for (size_t i = 0; i < buffers.size(); i++) {
        if (!buffers[i]->guards_are_intact()) {
            give_up(1, "the launch wrote outside of buffer %zu", i);
        }
    }
}

}  // namespace

int main(int count, char **arguments) {
    if (count != 3) {
        give_up(2, "usage: runner JOBS RESULTS");
    }
    Reader jobs(read_file(arguments[1]));
    FILE *results = fopen(arguments[2], "wb");
    if (results == nullptr) {
        give_up(2, "%s cannot be written", arguments[2]);
    }
    auto limit = static_cast<time_t>(jobs.number());
    size_t job_count = jobs.number();
    for (size_t job = 0; job < job_count; job++) {
        // A kernel that does not end is killed by SIGVTALRM, whatever else this machine does meanwhile.
        itimerval timer{{0, 0}, {limit, 0}};
        setitimer(ITIMER_VIRTUAL, &timer, nullptr);
        emulator_seed(jobs.number());
        std::vector<std::unique_ptr<Buffer>> buffers(jobs.number());
        for (auto &buffer : buffers) {
            size_t offset = jobs.number();
            size_t size = jobs.number();
            buffer = std::make_unique<Buffer>(offset, size, jobs.take(size));
        }
        size_t launches = jobs.number();
        for (size_t launch = 0; launch < launches; launch++) {
            printf("%zu %zu\n", job, launch);
            fflush(stdout);
            run_launch(jobs, buffers);
        }
        for (const auto &buffer : buffers) {
            if (fwrite(buffer->data(), 1, buffer->size(), results) != buffer->size()) {
                give_up(2, "%s cannot be written", arguments[2]);
            }
        }
    }
    if (fclose(results) != 0) {
        give_up(2, "%s cannot be written", arguments[2]);
    }
    return 0;
}
