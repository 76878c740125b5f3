// The kernels' argument structs, and the kernels of all files but attention.cu. Those of attention.cu have the same
// structs for every head size.
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
namespace packed {
#include "packed.cu"
}
namespace noise {
#include "noise.cu"
}
namespace attention {
#define HEAD 64
#include "attention.cu"
#undef HEAD
}
