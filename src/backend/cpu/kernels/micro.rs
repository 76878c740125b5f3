//! The inner loop of products in f32, whose sums stay in registers: `c[i][j] = Σ_k a[i][k] * w[k][j]`, or added to
//! it. Each element is one chain of fused multiply-adds in ascending `k`.

use super::{
    isa::{Isa, IsaKind},
    output::Output,
};

/// f32 lanes of the widest vector. The width of a micro tile is a multiple of it.
pub(super) const LANES: usize = 16;

/// Most rows of a micro tile that is one vector wide: with 12 sums, a vector of weights and a broadcast value, all is
/// in registers.
pub(super) const NARROW_ROWS: usize = 12;
/// Most rows of a micro tile that is two to four vectors wide: 24 sums fill 24 of 32 registers.
pub(super) const WIDE_ROWS: usize = 6;
/// Most vectors of a micro tile.
pub(super) const MOST_VECTORS: usize = 4;

/// Size of a micro tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileSize {
    /// At most [`NARROW_ROWS`] where the tile is one vector wide, and at most [`WIDE_ROWS`] where it is wider.
    pub rows: usize,
    /// Width in vectors of [`LANES`] outputs, from 1 to [`MOST_VECTORS`].
    pub vectors: usize,
}

/// Operands of a micro tile. Strides are in elements.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// `[rows][k]`, rows `a_stride` apart.
    pub a: *const f32,
    pub a_stride: usize,
    /// `[k][width]`, rows `w_stride` apart.
    pub w: *const f32,
    pub w_stride: usize,
    /// `[rows][width]`, rows `c_stride` apart. It is written, and read first where products are added.
    pub c: *mut f32,
    pub c_stride: usize,
    /// Whether chains start from 0 or from what is in `c`.
    pub output: Output,
    /// Number of inputs, the length of a chain.
    pub k: usize,
}

/// Computes a micro tile.
///
/// # Safety
/// With the width `size.vectors * LANES`: `tile.a` is readable for `size.rows` rows of `tile.k` elements, `tile.w` for
/// `tile.k` rows of the width, and `tile.c` readable and writable for `size.rows` rows of the width. While this runs
/// nobody else accesses that part of `tile.c`, and it overlaps neither of the others. Nothing needs to be aligned to
/// more than 4 bytes.
///
/// # Panics
/// When there is no micro tile of this size.
pub(super) unsafe fn run(isa: Isa, size: TileSize, tile: &Tile) {
    macro_rules! dispatch {
        ($function:ident) => {
            // SAFETY: the match gives `$function` the size that the caller vouches for. `Isa::available` makes an
            // `isa.0` only where it has found the features that `$function` is compiled for.
            unsafe {
                match (size.vectors, size.rows) {
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
                    _ => unreachable!("there is no micro tile of {size:?}"),
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
/// What [`run`] asks for, with `ROWS` rows and `VECTORS` vectors, and the processor has AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: the caller vouches for `ROWS` rows of `a` and `c` and `k` rows of `w`, each of the last two
    // `VECTORS * LANES` wide. `i < ROWS`, `j < VECTORS` and `k < tile.k` keep every access inside of them; `w`
    // itself moves on to a row that may not exist, hence `wrapping_add`, and is not read there.
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
            w = w.wrapping_add(tile.w_stride);
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(tile.c.add(i * tile.c_stride + j * LANES), *sum);
            }
        }
    }
}

/// # Safety
/// What [`run`] asks for, with `ROWS` rows and `VECTORS` vectors, and the processor has AVX2 and FMA.
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
            // SAFETY: as in `avx512`: rows `first..first + rows` are below `ROWS`, and the two half vectors at
            // `j * LANES` and 8 behind are below `VECTORS * LANES`.
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
                    w = w.wrapping_add(tile.w_stride);
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
/// What [`run`] asks for, with `ROWS` rows and `VECTORS` vectors.
unsafe fn portable<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    for i in 0..ROWS {
        for j in 0..VECTORS {
            // SAFETY: as in `avx512`: `i < ROWS`, `j < VECTORS` and `k < tile.k`. `c` overlaps neither `a` nor `w`, and
            // the shared slices of it end before it is written.
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
