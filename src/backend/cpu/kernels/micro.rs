//! The register-tiled inner loop: `c[i][j] = Σ_k a[i][k] * w[k][j]`, or added to it, one fused multiply-add chain per
//! element in ascending `k`.

use super::{Isa, Output, isa::IsaKind};

/// f32 lanes of the widest vector; tiles are multiples of it wide.
pub(super) const LANES: usize = 16;

/// Most rows of a tile that is one vector wide.
pub(super) const NARROW_ROWS: usize = 12;
/// Most rows of a tile that is two to four vectors wide.
pub(super) const WIDE_ROWS: usize = 6;

/// A tile's operands. Strides are in elements.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// `[rows][k]`, rows `a_stride` apart.
    pub a: *const f32,
    pub a_stride: usize,
    /// `[k][width]`, rows `w_stride` apart.
    pub w: *const f32,
    pub w_stride: usize,
    /// `[rows][width]`, rows `c_stride` apart; read (unless replaced) and written.
    pub c: *mut f32,
    pub c_stride: usize,
    /// Whether chains start from 0 or from what is in `c`.
    pub output: Output,
    /// Length of the chains.
    pub k: usize,
}

/// Runs a tile of `rows` x `vectors * LANES`.
///
/// # Safety
/// `a` must be readable for `rows` rows of `k`, `w` for `k` rows of the width, `c` readable and writable for
/// `rows` rows of the width and not overlapping the others. `rows` is at most [`NARROW_ROWS`] for one vector
/// and at most [`WIDE_ROWS`] for two to four.
pub(super) unsafe fn run(isa: Isa, rows: usize, vectors: usize, tile: &Tile) {
    macro_rules! dispatch {
        ($function:ident) => {
            // SAFETY: the caller's promise covers the operands; the instruction set is there because an
            // `Isa` is only made for a processor that has it.
            unsafe {
                match (vectors, rows) {
                    (1, 1) => $function::<1, 1>(tile),
                    (1, 2) => $function::<2, 1>(tile),
                    (1, 3) => $function::<3, 1>(tile),
                    (1, 4) => $function::<4, 1>(tile),
                    (1, 5) => $function::<5, 1>(tile),
                    (1, 6) => $function::<6, 1>(tile),
                    (1, 7) => $function::<7, 1>(tile),
                    (1, 8) => $function::<8, 1>(tile),
                    (1, 9) => $function::<9, 1>(tile),
                    (1, 10) => $function::<10, 1>(tile),
                    (1, 11) => $function::<11, 1>(tile),
                    (1, 12) => $function::<12, 1>(tile),
                    (2, 1) => $function::<1, 2>(tile),
                    (2, 2) => $function::<2, 2>(tile),
                    (2, 3) => $function::<3, 2>(tile),
                    (2, 4) => $function::<4, 2>(tile),
                    (2, 5) => $function::<5, 2>(tile),
                    (2, 6) => $function::<6, 2>(tile),
                    (3, 1) => $function::<1, 3>(tile),
                    (3, 2) => $function::<2, 3>(tile),
                    (3, 3) => $function::<3, 3>(tile),
                    (3, 4) => $function::<4, 3>(tile),
                    (3, 5) => $function::<5, 3>(tile),
                    (3, 6) => $function::<6, 3>(tile),
                    (4, 1) => $function::<1, 4>(tile),
                    (4, 2) => $function::<2, 4>(tile),
                    (4, 3) => $function::<3, 4>(tile),
                    (4, 4) => $function::<4, 4>(tile),
                    (4, 5) => $function::<5, 4>(tile),
                    (4, 6) => $function::<6, 4>(tile),
                    _ => unreachable!("no tile of {rows} rows and {vectors} vectors"),
                }
            }
        };
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Amx | IsaKind::Avx512Vnni | IsaKind::Avx512 => dispatch!(avx512),
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => dispatch!(avx2),
        _ => dispatch!(portable),
    }
}

/// # Safety
/// As [`run`], for `ROWS` rows and `VECTORS` vectors; the processor has AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: all addresses are inside the operands that the caller vouches for.
    unsafe {
        if tile.output == Output::Add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(tile.c.add(i * tile.c_stride + j * LANES));
                }
            }
        }
        let mut w = tile.w;
        for k in 0..tile.k {
            let mut weights = [_mm512_setzero_ps(); VECTORS];
            for (j, weight) in weights.iter_mut().enumerate() {
                *weight = _mm512_loadu_ps(w.add(j * LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*tile.a.add(i * tile.a_stride + k));
                for (sum, weight) in row.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(a, weight, *sum);
                }
            }
            w = w.add(tile.w_stride);
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(tile.c.add(i * tile.c_stride + j * LANES), *sum);
            }
        }
    }
}

/// # Safety
/// As [`run`], for `ROWS` rows and `VECTORS` vectors; the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    // Sixteen registers hold one column of two half-width vectors for up to six rows.
    for j in 0..VECTORS {
        let mut first = 0;
        while first < ROWS {
            let rows = (ROWS - first).min(WIDE_ROWS);
            let mut sums = [[_mm256_setzero_ps(); 2]; WIDE_ROWS];
            // SAFETY: all addresses are inside the operands that the caller vouches for.
            unsafe {
                let c = tile.c.add(first * tile.c_stride + j * LANES);
                if tile.output == Output::Add {
                    for (i, row) in sums[..rows].iter_mut().enumerate() {
                        row[0] = _mm256_loadu_ps(c.add(i * tile.c_stride));
                        row[1] = _mm256_loadu_ps(c.add(i * tile.c_stride + 8));
                    }
                }
                let mut w = tile.w.add(j * LANES);
                for k in 0..tile.k {
                    let (left, right) = (_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8)));
                    for (i, row) in sums[..rows].iter_mut().enumerate() {
                        let a = _mm256_set1_ps(*tile.a.add((first + i) * tile.a_stride + k));
                        row[0] = _mm256_fmadd_ps(a, left, row[0]);
                        row[1] = _mm256_fmadd_ps(a, right, row[1]);
                    }
                    w = w.add(tile.w_stride);
                }
                for (i, row) in sums[..rows].iter().enumerate() {
                    _mm256_storeu_ps(c.add(i * tile.c_stride), row[0]);
                    _mm256_storeu_ps(c.add(i * tile.c_stride + 8), row[1]);
                }
            }
            first += rows;
        }
    }
}

/// # Safety
/// As [`run`], for `ROWS` rows and `VECTORS` vectors.
unsafe fn portable<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    for i in 0..ROWS {
        for j in 0..VECTORS {
            // SAFETY: all addresses are inside the operands that the caller vouches for.
            unsafe {
                let c = tile.c.add(i * tile.c_stride + j * LANES);
                let mut sums = [0f32; LANES];
                if tile.output == Output::Add {
                    sums.copy_from_slice(std::slice::from_raw_parts(c, LANES));
                }
                for k in 0..tile.k {
                    let a = *tile.a.add(i * tile.a_stride + k);
                    let w = std::slice::from_raw_parts(tile.w.add(k * tile.w_stride + j * LANES), LANES);
                    for (sum, weight) in sums.iter_mut().zip(w) {
                        *sum = a.mul_add(*weight, *sum);
                    }
                }
                std::slice::from_raw_parts_mut(c, LANES).copy_from_slice(&sums);
            }
        }
    }
}
