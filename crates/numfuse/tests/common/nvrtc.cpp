// A stand-in for NVRTC on machines without a GPU: what it calls machine code is a library that g++ makes of the text for the
// emulator (crates/cuda/tests/emulator). The text is compiled by another process, the program that $FAKE_NVRTC_PROGRAM
// names: a test, which finds the text in the file $FAKE_NVRTC_TEXT and leaves the result beside it, in FILE.so.
//
// $FAKE_NVRTC_REFUSE=1 has every compilation fail as for a text with mistakes in it. A library whose name ends in `.so.12` is
// of version 12.9, any other one of version 13.0. $FAKE_NVRTC_LOG is what the log ends with.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <sstream>
#include <string>
#include <unistd.h>

namespace {

enum Result { SUCCESS = 0, INVALID_INPUT = 3, COMPILATION = 6, INTERNAL = 11 };

struct Program {
    std::string text, log, code;
};

std::string variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

std::string read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
}

std::string quoted(const std::string &word) { return "'" + word + "'"; }

} // namespace

extern "C" {

int nvrtcVersion(int *major, int *minor) {
    Dl_info info;
    std::string file = dladdr(reinterpret_cast<void *>(&nvrtcVersion), &info) ? info.dli_fname : "";
    bool is_12 = file.size() > 6 && file.compare(file.size() - 6, 6, ".so.12") == 0;
    *major = is_12 ? 12 : 13, *minor = is_12 ? 9 : 0;
    return SUCCESS;
}

const char *nvrtcGetErrorString(int result) { return result == SUCCESS ? "NVRTC_SUCCESS" : "NVRTC_ERROR"; }

int nvrtcGetNumSupportedArchs(int *count) {
    *count = 2;
    return SUCCESS;
}

int nvrtcGetSupportedArchs(int *archs) {
    archs[0] = 80, archs[1] = 90;
    return SUCCESS;
}

int nvrtcCreateProgram(Program **program, const char *text, const char *, int, const char *const *,
                       const char *const *) {
    *program = new Program{text, "", ""};
    return SUCCESS;
}

int nvrtcDestroyProgram(Program **program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    for (int i = 0; i < count; i++)
        program->log += std::string(options[i]) + "\n";
    if (variable("FAKE_NVRTC_REFUSE") == "1") {
        program->log += "kernel.cu(1): error: refused\n";
        return COMPILATION;
    }
    char folder[] = "/tmp/numfuse-nvrtc-XXXXXX";
    if (!mkdtemp(folder))
        return INTERNAL;
    std::string file = std::string(folder) + "/kernel.cu", result = file + ".so";
    std::ofstream(file, std::ios::binary) << program->text;
    std::string command = "FAKE_NVRTC_TEXT=" + quoted(file) + " " +
                          quoted(variable("FAKE_NVRTC_PROGRAM")) + " compiles_for_the_stand_in --nocapture 2>&1";
    FILE *process = popen(command.c_str(), "r");
    if (!process)
        return INTERNAL;
    char buffer[4096];
    for (size_t got; (got = fread(buffer, 1, sizeof buffer, process)) > 0;)
        program->log.append(buffer, got);
    bool ended = pclose(process) == 0;
    program->code = read(result);
    program->log += variable("FAKE_NVRTC_LOG");
    unlink(file.c_str()), unlink(result.c_str()), rmdir(folder);
    return ended && !program->code.empty() ? SUCCESS : COMPILATION;
}

int nvrtcGetProgramLogSize(Program *program, size_t *size) {
    *size = program->log.size() + 1;
    return SUCCESS;
}

int nvrtcGetProgramLog(Program *program, char *log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}

int nvrtcGetCUBINSize(Program *program, size_t *size) {
    *size = program->code.size();
    return SUCCESS;
}

int nvrtcGetCUBIN(Program *program, char *code) {
    memcpy(code, program->code.data(), program->code.size());
    return SUCCESS;
}
}
