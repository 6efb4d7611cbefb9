//! The integer products, by what this machine's instructions are.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m256i, __m512i, _mm256_add_epi32, _mm256_dpwssd_avx_epi32, _mm256_load_si256, _mm256_madd_epi16,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_store_si256, _mm512_dpwssd_epi32, _mm512_load_si512,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_store_si512,
};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::quantise::{Block, HEIGHT, LANES, Line, STEP};
use super::{Instructions, Sums};

pub(super) fn available(instructions: Instructions) -> bool {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    match instructions {
        Instructions::Amx => amx(),
        Instructions::Avx512Vnni => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"),
        Instructions::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
        Instructions::Avx2 => avx2,
    }
}

/// Whether there are byte tiles, and the system lets this process use them.
fn amx() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        const TILES_AND_BYTES: u32 = 0b11 << 24;
        // SAFETY: leaf 7 exists wherever AVX2 does.
        #[allow(unused_unsafe)]
        let features = if is_x86_feature_detected!("avx2") { unsafe { __cpuid_count(7, 0) }.edx } else { 0 };
        features & TILES_AND_BYTES == TILES_AND_BYTES && request_tiles()
    })
}

#[cfg(target_os = "linux")]
fn request_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let mut status = ARCH_PRCTL;
    // SAFETY: this asks for a permission and changes nothing else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") status,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn request_tiles() -> bool {
    false
}

/// Multiplies on one thread.
pub(super) struct Multiplier {
    instructions: Instructions,
    /// Held as long as this is.
    _tiles: Option<Tiles>,
}

impl Multiplier {
    pub(super) fn new(instructions: Instructions) -> Multiplier {
        assert!(available(instructions));
        Multiplier { instructions, _tiles: (instructions == Instructions::Amx).then(Tiles::configure) }
    }

    /// The products of a block with a panel.
    pub(super) fn multiply(&self, block: &Block, panel: &[Line], sums: &mut Sums) {
        assert!(block.lines.len() * 2 * LANES == block.height * panel.len() && panel.len().is_multiple_of(STEP));
        let (a, b, pairs) = (block.lines.as_ptr().cast::<i32>(), panel.as_ptr(), panel.len() / 2);
        let (high, cross) = (sums.high.as_mut_ptr(), sums.cross.as_mut_ptr());
        // SAFETY: the instructions are there, and by the assertion and the layouts so are the numbers.
        unsafe {
            match (self.instructions, block.height) {
                (Instructions::Amx, HEIGHT) => multiply_bytes(a, b, panel.len() / STEP, high, cross),
                (Instructions::Avx512Vnni, 12) => multiply_avx512_vnni::<12>(a, b, pairs, high),
                (Instructions::Avx512Vnni, 4) => multiply_avx512_vnni::<4>(a, b, pairs, high),
                (Instructions::AvxVnni, 12) => multiply_avx_vnni::<12, 6>(a, b, pairs, high),
                (Instructions::AvxVnni, 4) => multiply_avx_vnni::<4, 4>(a, b, pairs, high),
                (Instructions::Avx2, 12) => multiply_avx2::<12, 6>(a, b, pairs, high),
                (Instructions::Avx2, 4) => multiply_avx2::<4, 4>(a, b, pairs, high),
                (instructions, height) => unreachable!("{instructions:?} with {height} rows"),
            }
        }
    }
}

/// `sums[ROWS][WIDTH] = a[pairs][ROWS] b[pairs][WIDTH]`.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply_avx512_vnni<const ROWS: usize>(a: *const i32, b: *const Line, pairs: usize, sums: *mut [Line; 2]) {
    let mut lanes = [[_mm512_setzero_si512(); 2]; ROWS];
    // SAFETY: as many numbers are there as the shapes say.
    unsafe {
        for pair in 0..pairs {
            let b = b.add(2 * pair).cast::<__m512i>();
            let b = [_mm512_load_si512(b), _mm512_load_si512(b.add(1))];
            for (i, lanes) in lanes.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(*a.add(pair * ROWS + i));
                lanes[0] = _mm512_dpwssd_epi32(lanes[0], a, b[0]);
                lanes[1] = _mm512_dpwssd_epi32(lanes[1], a, b[1]);
            }
        }
        for (i, lanes) in lanes.iter().enumerate() {
            let sums = sums.add(i).cast::<__m512i>();
            _mm512_store_si512(sums, lanes[0]);
            _mm512_store_si512(sums.add(1), lanes[1]);
        }
    }
}

/// The same in blocks of `TALL` rows and sixteen directions, and in pieces that stay in the first cache.
macro_rules! multiply_256 {
    ($features:literal, $name:ident, $add_products:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const ROWS: usize, const TALL: usize>(
            a: *const i32,
            b: *const Line,
            pairs: usize,
            sums: *mut [Line; 2],
        ) {
            const PIECE: usize = 192;
            for start in (0..pairs).step_by(PIECE) {
                for (first, tile) in (0..ROWS).step_by(TALL).flat_map(|first| [(first, 0), (first, 1)]) {
                    let mut lanes = [[_mm256_setzero_si256(); 2]; TALL];
                    // SAFETY: as many numbers are there as the shapes say.
                    unsafe {
                        for pair in start..pairs.min(start + PIECE) {
                            let b = b.add(2 * pair + tile).cast::<__m256i>();
                            let b = [_mm256_load_si256(b), _mm256_load_si256(b.add(1))];
                            for (i, lanes) in lanes.iter_mut().enumerate() {
                                let a = _mm256_set1_epi32(*a.add(pair * ROWS + first + i));
                                lanes[0] = $add_products(lanes[0], a, b[0]);
                                lanes[1] = $add_products(lanes[1], a, b[1]);
                            }
                        }
                        for (i, lanes) in lanes.iter().enumerate() {
                            let sums = sums.add(first + i).cast::<__m256i>().add(2 * tile);
                            for (j, lanes) in lanes.iter().enumerate() {
                                let sums = sums.add(j);
                                let before = if start == 0 { _mm256_setzero_si256() } else { _mm256_load_si256(sums) };
                                _mm256_store_si256(sums, _mm256_add_epi32(before, *lanes));
                            }
                        }
                    }
                }
            }
        }
    };
}

multiply_256!("avx2,avxvnni", multiply_avx_vnni, _mm256_dpwssd_avx_epi32);
multiply_256!("avx2", multiply_avx2, |sums, a, b| _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)));

/// This thread's tiles, all of sixteen rows of 64 bytes, until they are released.
struct Tiles(PhantomData<*const u8>);

impl Tiles {
    fn configure() -> Tiles {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(16);
        let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the caller has made sure that this process may use tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Tiles(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles were configured on this thread.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// `high = h h` and `cross = h l + l h`, each `[16][WIDTH]`, over steps of 64 columns: `a[steps][h, l]` and
/// `b[steps][two tiles][h, l]`.
unsafe fn multiply_bytes(a: *const i32, b: *const Line, steps: usize, high: *mut [Line; 2], cross: *mut [Line; 2]) {
    // SAFETY: the tiles are configured, and as many numbers are there as the shapes say.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{b} + {line}]",
            "tileloadd tmm7, [{b} + {line} + 1024]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tileloadd tmm6, [{b} + {line} + 2048]",
            "tileloadd tmm7, [{b} + {line} + 3072]",
            "tdpbssd tmm1, tmm4, tmm6",
            "tdpbssd tmm3, tmm4, tmm7",
            "tdpbssd tmm3, tmm5, tmm6",
            "add {a}, 2048",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{high} + {row}], tmm0",
            "tilestored [{high} + {row} + 64], tmm1",
            "tilestored [{cross} + {row}], tmm2",
            "tilestored [{cross} + {row} + 64], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            steps = inout(reg) steps => _,
            high = in(reg) high,
            cross = in(reg) cross,
            row = in(reg) size_of::<[Line; 2]>(),
            line = in(reg) size_of::<Line>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
