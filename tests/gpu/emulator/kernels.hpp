// All kernels, as the emulator's programs see them: those of attention.cu once for each head size.
#pragma once

#include "device.cuh"

namespace rows {
#include "rows.cu"
}
namespace low_rank {
#include "low_rank.cu"
}
namespace logits {
#include "logits.cu"
}

#define HEAD 16
namespace head_16 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 32
namespace head_32 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 48
namespace head_48 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 64
namespace head_64 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 80
namespace head_80 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 96
namespace head_96 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 112
namespace head_112 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 128
namespace head_128 {
#include "attention.cu"
}
#undef HEAD
#define HEAD 256
namespace head_256 {
#include "attention.cu"
}
#undef HEAD
