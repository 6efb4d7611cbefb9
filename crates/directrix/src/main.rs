//! The `directrix` command: parse, run, exit code.

// Documentation of flags is what `--help` shows: without markup.
#[allow(clippy::doc_markdown)]
mod cli;

fn main() -> std::process::ExitCode {
    keep_freed_memory();
    cli::main()
}

/// Lets the allocator reuse large buffers rather than give them back and fault their pages in again: every matrix of a
/// pass is such a buffer, and a twentieth of the time would go there.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: these settings are documented, and nothing else runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    }
}
