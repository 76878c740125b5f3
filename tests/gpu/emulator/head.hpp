// Includes attention.cu for one head size, `HEAD`, in a namespace of its own, and lists its kernels there. It is
// included once for each size. Where EMULATED_HEAD and EMULATED_SECOND_HEAD are given, only these sizes are built,
// which is quicker.
#if !defined(EMULATED_HEAD) || HEAD == EMULATED_HEAD || HEAD == EMULATED_SECOND_HEAD
#define SPACE_OF(head) head_##head
#define SPACE(head) SPACE_OF(head)
#define TEXT_OF(head) #head
#define TEXT(head) TEXT_OF(head)
namespace SPACE(HEAD) {
#include "attention.cu"
const registry::Kernel KERNELS[] = {
#if HEAD <= 128
    {"attention_whole_" TEXT(HEAD), registry::run_kernel<AttentionArgs, NAMED(attention_whole)>},
#endif
    {"attention_split_" TEXT(HEAD), registry::run_kernel<AttentionArgs, NAMED(attention_split)>},
    {"attention_fold_" TEXT(HEAD), registry::run_kernel<AttentionArgs, NAMED(attention_fold)>},
};
const registry::KernelList LIST(KERNELS);
}
#undef SPACE_OF
#undef SPACE
#undef TEXT_OF
#undef TEXT
#endif
#undef HEAD
