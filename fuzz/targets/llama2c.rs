#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| directrix_fuzz::llama2c(bytes));
