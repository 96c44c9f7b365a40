//! Shared memory: a sealed memfd, mapped by both processes.
//!
//! Off the packet's path; rings and counters live in it.
//!
//! A region's size is fixed before anybody else sees it (`F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL`), its pages are
//! allocated at creation (of a sparse one, when [`Region::populate`] is asked for them), and [`Region::map`] refuses a file that lacks the seals or is not a plain memfd. So a peer can't
//! make an access fault by cutting the file under us. [`Region::freeze`] adds `F_SEAL_FUTURE_WRITE`: the mapping that exists
//! stays writable, and the descriptor gives nobody another one.
//!
//! Contents start as zeros. Units are bytes, unless a name says words (8 bytes). Offsets are multiples of 8.
//!
//! Errors: [`RegionError`]. Source: memfd_create(2), fcntl(2) "File Sealing".

use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Bytes of a word; everything in a region is made of these.
pub const WORD_BYTES: usize = 8;
/// Bytes of a cache-line pair: what adjacent-line prefetch fetches at once. Things that different sides write are this apart.
pub const LINE_BYTES: usize = 128;
/// The largest region that is mapped.
pub const MAX_BYTES: usize = 1 << 30;
/// Regions are whole pages.
pub const PAGE_BYTES: usize = 4096;

/// The seals without which a peer's region is not mapped.
const FIXED_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
/// `TMPFS_MAGIC` of statfs(2): a memfd of ordinary pages. Huge pages could run out under an access.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Shared memory that can't be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The kernel refused a step.
    #[error(
        "cannot {step} shared memory of {bytes} bytes: {source}; check free memory, the memory cgroup and `ulimit -v`"
    )]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// How much memory it is about.
        bytes: usize,
        /// What the kernel said.
        source: Errno,
    },
    /// More memory than a region may have, or none, or not whole words.
    #[error("a shared region of {0} bytes is not allowed: it must be whole words, 8 bytes to 1 GiB")]
    Size(u64),
    /// The descriptor is not a memfd of ordinary pages.
    #[error("the descriptor that the other side sent is not a memfd; is it a Towpath dataplane of this version?")]
    NotMemfd,
    /// The size of the memfd is not fixed, so its owner could cut it under us.
    #[error("the memfd that the other side sent may still change its size (seals {0:#x}); refused")]
    NotSealed(u32),
    /// An offset or length outside the region.
    #[error("{words} words at byte {offset} are not inside a shared region of {bytes} bytes")]
    OutOfBounds {
        /// Where, in bytes.
        offset: usize,
        /// How many words.
        words: usize,
        /// The region's size.
        bytes: usize,
    },
    /// The region was mapped for reading.
    #[error("the shared region is mapped read-only")]
    ReadOnly,
}

/// How a region is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store would fault, so no writable words are given out.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// A mapping of shared memory; dropping it unmaps.
#[derive(Debug)]
pub struct Region {
    start: NonNull<AtomicU64>,
    bytes: usize,
    access: Access,
}

// SAFETY: needed because of the raw pointer. The mapping belongs to this value alone, is unmapped once, in Drop, and is
// only reached as atomics, which any number of threads may use.
unsafe impl Send for Region {}
// SAFETY: as for Send: `&Region` gives out atomics only.
unsafe impl Sync for Region {}

impl Region {
    /// A new region of `bytes` zeros whose size can't change, and its descriptor. Call [`Region::seal`] or
    /// [`Region::freeze`] before giving that away: the other side's [`Region::map`] asks for one of them.
    ///
    /// `name` shows in /proc/PID/maps.
    pub fn create(name: &str, bytes: usize) -> Result<(Self, OwnedFd), RegionError> {
        let (region, fd) = Self::create_sparse(name, bytes)?;
        region.populate(&fd, 0, bytes)?;
        Ok((region, fd))
    }

    /// As [`Region::create`], but without pages: each part takes memory once it is touched, and should be populated before it
    /// is used.
    pub fn create_sparse(name: &str, bytes: usize) -> Result<(Self, OwnedFd), RegionError> {
        check_size(bytes as u64)?;
        let failed = |step| move |source| RegionError::Kernel { step, bytes, source };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know NOEXEC_SEAL; there the mode below takes the execute bits off.
        let fd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
            other => other,
        }
        .map_err(failed("create"))?;
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(failed("close to other users"))?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(failed("size"))?;
        rustix::fs::fcntl_add_seals(&fd, FIXED_SIZE.difference(SealFlags::SEAL)).map_err(failed("seal"))?;
        let region = Self::map_checked(&fd, bytes, Access::ReadWrite)?;
        Ok((region, fd))
    }

    /// Takes the memory of a part now, so that no access to it fails or waits later. `fd` is the region's own.
    pub fn populate(&self, fd: impl AsFd, offset: usize, bytes: usize) -> Result<(), RegionError> {
        let failed = |source| RegionError::Kernel { step: "allocate", bytes, source };
        if !offset.is_multiple_of(PAGE_BYTES) || offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(RegionError::OutOfBounds { offset, words: bytes / WORD_BYTES, bytes: self.bytes });
        }
        // A size that is sealed stays: the part is inside.
        rustix::fs::fallocate(fd, FallocateFlags::empty(), offset as u64, bytes as u64).map_err(failed)?;
        // SAFETY: pointer arithmetic within the mapping: the part was just checked to be inside.
        let start = unsafe { self.start.as_ptr().byte_add(offset) };
        // SAFETY: the part is inside our own mapping; the advice enters its pages into the page table and changes no contents.
        let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, Advice::LinuxPopulateWrite) }; // kernels before 5.14: at first touch
        Ok(())
    }

    /// Ends the sealing: no further seal can be added, such as one that would take our own writing away.
    pub fn seal(fd: impl AsFd) -> Result<(), RegionError> {
        add_seals(fd, SealFlags::SEAL)
    }

    /// As [`Region::seal`], and from now on nobody can map or write the file for writing; mappings that exist stay as they
    /// are.
    pub fn freeze(fd: impl AsFd) -> Result<(), RegionError> {
        add_seals(fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
    }

    /// Maps the whole of a region that another process made.
    pub fn map(fd: impl AsFd, access: Access) -> Result<Self, RegionError> {
        let fd = fd.as_fd();
        let failed = |step| move |source| RegionError::Kernel { step, bytes: 0, source };
        let filesystem = rustix::fs::fstatfs(fd).map_err(failed("inspect"))?;
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| RegionError::NotMemfd)?;
        if filesystem.f_type as u64 != TMPFS_MAGIC {
            return Err(RegionError::NotMemfd);
        }
        // The seals come first: once they are there, the size that is read next stays true.
        if !seals.contains(FIXED_SIZE) {
            return Err(RegionError::NotSealed(seals.bits()));
        }
        let size = rustix::fs::fstat(fd).map_err(failed("inspect"))?.st_size;
        let bytes = check_size(u64::try_from(size).unwrap_or(0))?;
        Self::map_checked(fd, bytes, access)
    }

    fn map_checked(fd: impl AsFd, bytes: usize, access: Access) -> Result<Self, RegionError> {
        let failed = |source| RegionError::Kernel { step: "map", bytes, source };
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // What is only read is populated at once; what is written too may be sparse, and stays so.
        let populate = if access == Access::ReadOnly { MapFlags::POPULATE } else { MapFlags::empty() };
        let flags = MapFlags::SHARED | populate;
        // SAFETY: mmap is the only way to share memory. The address is left to the kernel, so no memory that Rust knows of
        // is replaced; the caller checked that the file is `bytes` long and sealed so, so no page of it is beyond its end.
        let address = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        let start = NonNull::new(address.map_err(failed)?.cast()).ok_or(failed(Errno::NOMEM))?;
        Ok(Self { start, bytes, access })
    }

    /// The region's size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `count` words at `offset` bytes, for loads and stores.
    pub fn words(self: &Arc<Self>, offset: usize, count: usize) -> Result<Words, RegionError> {
        match self.access {
            Access::ReadWrite => self.view(offset, count),
            Access::ReadOnly => Err(RegionError::ReadOnly),
        }
    }

    /// As [`Region::words`], whatever the access. The caller keeps to relaxed loads if the region is read-only.
    pub(crate) fn view(self: &Arc<Self>, offset: usize, count: usize) -> Result<Words, RegionError> {
        let end = count.checked_mul(WORD_BYTES).and_then(|bytes| bytes.checked_add(offset));
        if !offset.is_multiple_of(WORD_BYTES) || end.is_none_or(|end| end > self.bytes) {
            return Err(RegionError::OutOfBounds { offset, words: count, bytes: self.bytes });
        }
        // SAFETY: pointer arithmetic within the mapping: `offset` was just checked to be at most `self.bytes`.
        let start = unsafe { self.start.add(offset / WORD_BYTES) };
        Ok(Words { start, count, _region: Arc::clone(self) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: gives back the mapping that `map_checked` made, with its own address and length, once. Every `Words` holds
        // an `Arc` of this region, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping failed: {unmapped:?}");
    }
}

/// A piece of a region as atomic words; it keeps the mapping alive.
#[derive(Debug)]
pub struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
    _region: Arc<Region>,
}

// SAFETY: needed because of the raw pointer, which points into the region that this value keeps alive, see `Region`.
unsafe impl Send for Words {}
// SAFETY: as for Send: `&Words` gives out atomics only.
unsafe impl Sync for Words {}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: this is where mapped memory becomes Rust's. `Region::view` checked that `count` words from `start` are
        // inside the mapping and 8-byte aligned (a mapping is page-aligned); the `Arc` keeps it mapped. Any bit pattern is a
        // valid AtomicU64. Atomics may be changed by another process at any time.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

fn check_size(bytes: u64) -> Result<usize, RegionError> {
    match usize::try_from(bytes) {
        Ok(size) if (WORD_BYTES..=MAX_BYTES).contains(&size) && size.is_multiple_of(WORD_BYTES) => Ok(size),
        _ => Err(RegionError::Size(bytes)),
    }
}

fn add_seals(fd: impl AsFd, seals: SealFlags) -> Result<(), RegionError> {
    rustix::fs::fcntl_add_seals(fd, seals).map_err(|source| RegionError::Kernel { step: "seal", bytes: 0, source })
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::io::Write;
    use std::sync::atomic::Ordering;

    use super::*;

    const BYTES: usize = 2 * PAGE_BYTES;

    fn sealed() -> (Arc<Region>, OwnedFd) {
        let (region, fd) = Region::create("towpath-test", BYTES).unwrap();
        Region::seal(&fd).unwrap();
        (Arc::new(region), fd)
    }

    #[test]
    fn both_sides_see_the_same_words_and_the_memory_starts_as_zeros() {
        let (ours, fd) = sealed();
        let theirs = Arc::new(Region::map(fd, Access::ReadWrite).unwrap());
        let (ours, theirs) = (ours.words(0, BYTES / 8).unwrap(), theirs.words(0, BYTES / 8).unwrap());
        assert!(theirs.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        ours.last().unwrap().store(7, Ordering::Relaxed);
        assert_eq!(theirs.last().unwrap().load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_peer_cannot_cut_or_stretch_a_region_nor_make_it_executable() {
        let (_region, fd) = sealed();
        for bytes in [0, BYTES as u64 / 2, 2 * BYTES as u64] {
            assert_eq!(rustix::fs::ftruncate(&fd, bytes), Err(Errno::PERM));
        }
        assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::PERM), "nor take our writing away");
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode & 0o777, 0o600);
    }

    #[test]
    fn a_memfd_whose_size_may_change_is_not_mapped() {
        let allowed = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        for (flags, seals) in [
            (MemfdFlags::CLOEXEC, SealFlags::empty()),
            (allowed, SealFlags::empty()),
            (allowed, SealFlags::GROW | SealFlags::SEAL),
            (allowed, SealFlags::SHRINK | SealFlags::GROW),
        ] {
            let fd = rustix::fs::memfd_create("towpath-hostile", flags).unwrap();
            rustix::fs::ftruncate(&fd, BYTES as u64).unwrap();
            if !seals.is_empty() {
                rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
            }
            assert!(matches!(Region::map(&fd, Access::ReadOnly), Err(RegionError::NotSealed(_))), "{seals:?}");
        }
    }

    #[test]
    fn an_ordinary_file_is_not_mapped() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; BYTES]).unwrap();
        let refused = Region::map(&file, Access::ReadOnly);
        assert!(matches!(refused, Err(RegionError::NotMemfd | RegionError::NotSealed(_))), "{refused:?}");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(Region::map(&socket, Access::ReadOnly), Err(RegionError::NotMemfd)));
    }

    #[test]
    fn a_sealed_memfd_of_no_or_odd_size_is_not_mapped() {
        for bytes in [0, 7, 12] {
            let fd = rustix::fs::memfd_create("towpath-hostile", MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&fd, bytes).unwrap();
            rustix::fs::fcntl_add_seals(&fd, FIXED_SIZE).unwrap();
            assert!(matches!(Region::map(&fd, Access::ReadOnly), Err(RegionError::Size(size)) if size == bytes));
        }
        assert!(matches!(Region::create("towpath-test", MAX_BYTES + 8), Err(RegionError::Size(_))));
    }

    #[test]
    fn words_outside_the_region_or_across_words_are_refused() {
        let (region, _fd) = sealed();
        for (offset, words) in
            [(0, BYTES / 8 + 1), (BYTES, 1), (4, 1), (BYTES + 8, 0), (8, usize::MAX), (usize::MAX - 7, 1)]
        {
            let refused = region.words(offset, words);
            assert!(matches!(refused, Err(RegionError::OutOfBounds { .. })), "{offset} {words}");
        }
        assert_eq!(region.words(BYTES, 0).unwrap().len(), 0);
    }

    #[test]
    fn words_keep_the_mapping_when_the_region_is_dropped() {
        let (region, _fd) = sealed();
        let words = region.words(8, 1).unwrap();
        drop(region);
        words[0].store(1, Ordering::Relaxed);
        assert_eq!(words[0].load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_read_only_region_gives_out_no_words_to_write() {
        let (_region, fd) = sealed();
        let reader = Arc::new(Region::map(fd, Access::ReadOnly).unwrap());
        assert!(matches!(reader.words(0, 1), Err(RegionError::ReadOnly)));
    }

    #[test]
    fn a_frozen_descriptor_lets_nobody_write_but_the_one_who_had_it_mapped() {
        let (region, fd) = Region::create("towpath-test", BYTES).unwrap();
        Region::freeze(&fd).unwrap();
        assert!(matches!(Region::map(&fd, Access::ReadWrite), Err(RegionError::Kernel { source: Errno::PERM, .. })));
        assert_eq!(rustix::io::write(&fd, &[1]), Err(Errno::PERM));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(&fd, punch, 0, BYTES as u64), Err(Errno::PERM));
        let reader = Arc::new(Region::map(&fd, Access::ReadOnly).unwrap());
        Arc::new(region).words(0, 1).unwrap()[0].store(5, Ordering::Relaxed);
        assert_eq!(reader.view(0, 1).unwrap()[0].load(Ordering::Relaxed), 5);
    }
}
