//! Files in memory that were not read: a page comes when it is first looked at.
//!
//! A map is as long as its file was. Where another program cuts the file short meanwhile, a look at what is gone is answered by
//! the system with SIGBUS, which ends a program without a word. Reading instead of mapping would need private memory for all of
//! an index, or a copy for every query; so a program asks, when it starts, that [a sentence](exit_if_a_map_shrinks) be said.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use memmap2::Mmap;

/// A file mapped into memory.
#[derive(Debug)]
pub struct Map {
    map: Mmap,
    /// Where [`MAPS`] knows it, unless that is full.
    place: Option<usize>,
}

impl Map {
    /// Maps `file`, which is at `path` and not empty.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn of(file: &File, path: &Path) -> io::Result<Map> {
        // SAFETY: nothing here writes to the map. Files are replaced whole and not changed; where another program cuts one short,
        // the handler below ends this one.
        let map = unsafe { Mmap::map(file) }?;
        let place = MAPS.iter().position(|known| known.take(&map, path));
        Ok(Map { map, place })
    }

    /// Gives the memory of `part` of it back; what is looked at again comes from the file.
    pub fn let_go(&self, part: &[u8]) {
        #[cfg(unix)]
        {
            let offset = part.as_ptr() as usize - self.map.as_ptr() as usize;
            // SAFETY: the map is of a file and unchanged, so what is read again is the same.
            drop(unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) });
        }
        #[cfg(not(unix))]
        let _ = part;
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            MAPS[place].leave();
        }
    }
}

/// What is known of a map by the handler, which may neither lock nor allocate.
struct Known {
    start: AtomicUsize,
    /// 0 while nobody has this place.
    end: AtomicUsize,
    path: AtomicPtr<c_char>,
}

/// More maps than this at a time have no name in the sentence.
static MAPS: [Known; 4096] = [const { Known::nobody() }; 4096];

impl Known {
    const fn nobody() -> Known {
        Known { start: AtomicUsize::new(0), end: AtomicUsize::new(0), path: AtomicPtr::new(null_mut()) }
    }

    /// Takes the place for `map`, if nobody has it.
    fn take(&self, map: &Mmap, path: &Path) -> bool {
        let start = map.as_ptr() as usize;
        if self.end.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
        self.path.store(name.into_raw(), Ordering::Release);
        self.start.store(start, Ordering::Release);
        self.end.store(start + map.len(), Ordering::Release);
        true
    }

    fn leave(&self) {
        self.start.store(usize::MAX, Ordering::Release);
        let path = self.path.swap(null_mut(), Ordering::AcqRel);
        if !path.is_null() {
            // SAFETY: it came from `into_raw`, and nobody else takes it out.
            drop(unsafe { CString::from_raw(path) });
        }
        self.end.store(0, Ordering::Release);
    }
}

/// Ends the program with a sentence and exit code 1 where a mapped file was cut short while it was read, in place of a signal's
/// death. To be called when a program starts; does nothing but on Unix.
pub fn exit_if_a_map_shrinks() {
    #[cfg(unix)]
    {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = say_and_exit;
        // SAFETY: the action is whole, and the handler does only what handlers may.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
        }
    }
}

/// Writes and exits if the address is in a map; else returns, and what was done is done again with the system's own answer.
#[cfg(unix)]
extern "C" fn say_and_exit(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let say = |text: &[u8]| {
        // SAFETY: the bytes are there; what cannot be written is lost.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    };
    // SAFETY: the system gives a handler of this kind what it asked for.
    let address = unsafe { (*info).si_addr() } as usize;
    for known in &MAPS {
        let (start, end) = (known.start.load(Ordering::Acquire), known.end.load(Ordering::Acquire));
        if (start..end).contains(&address) {
            let path = known.path.load(Ordering::Acquire);
            say(b"error: `");
            if !path.is_null() {
                // SAFETY: a path that is there ends with 0, and the map that faults is not dropped meanwhile.
                say(unsafe { std::slice::from_raw_parts(path.cast(), libc::strlen(path)) });
            }
            say(b"` became shorter while it was read; put the whole file back, and run the command again\n");
            // SAFETY: ends the program at once.
            unsafe { libc::_exit(1) };
        }
    }
}
