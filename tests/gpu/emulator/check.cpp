// Checks the emulated kernels: check [part of a check's name]...
#include "check.hpp"

#include <chrono>
#include <cstdio>

namespace {

bool is_asked_for(const char* name, int count, char** parts) {
    for (int i = 1; i < count; i++) {
        if (strstr(name, parts[i]) != nullptr) {
            return true;
        }
    }
    return count == 1;
}

}  // namespace

int main(int count, char** parts) {
    std::vector<check::Check> all;
    for (const auto& group : {check::emulator_checks, check::row_checks, check::low_rank_checks, check::logits_checks,
                              check::packed_checks, check::noise_checks, check::attention_checks}) {
        const std::vector<check::Check> checks = group();
        all.insert(all.end(), checks.begin(), checks.end());
    }
    int failed = 0;
    int ran = 0;
    for (const check::Check& one : all) {
        if (!is_asked_for(one.name, count, parts)) {
            continue;
        }
        ran += 1;
        const auto began = std::chrono::steady_clock::now();
        std::string fault;
        try {
            one.run();
        } catch (const std::exception& error) {
            fault = error.what();
            failed += 1;
        }
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        printf("%-60s %6.2f s  %s\n", one.name, took.count(), fault.empty() ? "ok" : ("FAILED: " + fault).c_str());
        fflush(stdout);
    }
    const double millions = static_cast<double>(emulated_warp_instructions()) / 1e6;
    printf("%d checks, %d failed, %.1f million instructions of warps\n", ran, failed, millions);
    return failed == 0 && ran > 0 ? 0 : 1;
}
