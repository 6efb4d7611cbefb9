//! Files in memory that were not read: a page comes when it is first looked at.
//!
//! A map is as long as its file was. Where another program cuts the file short meanwhile, a look at what is gone is answered by
//! the system with SIGBUS, which ends a program without a word. Reading instead of mapping would need private memory for all of
//! an index, or a copy for every query; so a program asks, when it starts, that [a sentence](exit_if_a_map_shrinks) be said, or, where it
//! is to go on, that it [be told](survive_if_a_map_shrinks).

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

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
    shrunk: AtomicBool,
}

/// More maps than this at a time have no name in the sentence.
static MAPS: [Known; 4096] = [const { Known::nobody() }; 4096];

impl Known {
    const fn nobody() -> Known {
        let (start, end) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Known { start, end, path: AtomicPtr::new(null_mut()), shrunk: AtomicBool::new(false) }
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
        self.shrunk.store(false, Ordering::Release);
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
    handle(say_and_exit);
}

/// Lets the program go on where a mapped file was cut short while it was read: what is gone reads as zeros, and [`shrunken`] names the
/// file from then on. In place of [`exit_if_a_map_shrinks`]; does nothing but on Unix.
pub fn survive_if_a_map_shrinks() {
    #[cfg(unix)]
    handle(zeros_and_on);
}

/// A mapped file that was found to be cut short: what was read of it since is not what it held.
pub fn shrunken() -> Option<PathBuf> {
    let known = MAPS.iter().find(|known| known.shrunk.load(Ordering::Acquire))?;
    let path = known.path.load(Ordering::Acquire);
    if path.is_null() {
        return Some(PathBuf::new());
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: it came from `into_raw`, and a map that shrank is dropped when what is asked of it is answered, not before.
        let bytes = unsafe { std::ffi::CStr::from_ptr(path) }.to_bytes();
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
    }
    #[cfg(not(unix))]
    None
}

#[cfg(unix)]
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

#[cfg(unix)]
fn handle(handler: Handler) {
    // SAFETY: the action is whole, and the handlers do only what handlers may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
    }
}

/// The map that an address is in.
#[cfg(unix)]
fn map_at(address: usize) -> Option<&'static Known> {
    MAPS.iter()
        .find(|known| (known.start.load(Ordering::Acquire)..known.end.load(Ordering::Acquire)).contains(&address))
}

/// Puts zeros where the file has nothing any more, from the address to the end of the map.
#[cfg(unix)]
extern "C" fn zeros_and_on(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system gives a handler of this kind what it asked for.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: asks for a constant.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = address - address % page;
    let zeros = map_at(address).is_some_and(|known| {
        known.shrunk.store(true, Ordering::Release);
        let length = known.end.load(Ordering::Acquire).next_multiple_of(page) - start;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: these pages are the map's own, which nobody writes to.
        let found = unsafe { libc::mmap(start as *mut libc::c_void, length, libc::PROT_READ, flags, -1, 0) };
        found != libc::MAP_FAILED
    });
    if !zeros {
        leave_to_system(signal);
    }
}

/// What was done is done again when the handler returns, with the system's own answer.
#[cfg(unix)]
fn leave_to_system(signal: libc::c_int) {
    // SAFETY: resets a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Whether a thread is saying why the program ends.
#[cfg(unix)]
static ENDING: AtomicBool = AtomicBool::new(false);

/// Writes and exits if the address is in a map. Of several threads that find it cut short at once, one says so.
#[cfg(unix)]
extern "C" fn say_and_exit(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let say = |text: &[u8]| {
        // SAFETY: the bytes are there; what cannot be written is lost.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    };
    // SAFETY: the system gives a handler of this kind what it asked for.
    let address = unsafe { (*info).si_addr() } as usize;
    let Some(known) = map_at(address) else { return leave_to_system(signal) };
    while ENDING.swap(true, Ordering::AcqRel) {
        // SAFETY: waits; the thread that speaks ends this one with the program.
        unsafe { libc::pause() };
    }
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
