//! Memory for requests.
//!
//! A request may be given up at any time by dropping its future, yet the kernel may go on with it. Two rules make that
//! safe without a copy:
//!
//! * The kernel never writes into memory that anybody else can see. A read takes the segments out of its caller's
//!   [`IoVector`] and puts them back when it has ended; a caller that gives up is left with an empty vector, and the
//!   request frees the memory when the kernel is done.
//! * The kernel may read memory that its owner has back already (a write that was given up); it then stores old bytes or
//!   new ones, or some of each, but never freed memory, as the request holds a share of the allocation. Later operations
//!   on the file wait for it, so that it does not replace what they write.
//!
//! A segment has exactly one owner: [`IoVector`] is not `Clone`, and splitting hands each byte to one side. Segments
//! whose memory others see as well (a guest's RAM) say so, and are only ever reached by copying.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::region::Region;

/// Memory that segments can lie in, kept mapped for as long as it is held.
///
/// # Safety
/// The memory handed to [`IoVector::foreign`] with an owner must stay mapped, readable and writable until the owner is
/// dropped.
pub unsafe trait MemoryOwner: Send + Sync {}

#[derive(Clone)]
pub(crate) struct Segment {
    owner: Arc<dyn MemoryOwner>,
    start: NonNull<u8>,
    len: usize,
    /// Nobody else sees these bytes, so they may be borrowed as a slice.
    exclusive: bool,
}

// SAFETY: the owner keeps the memory mapped; exclusive bytes belong to one segment, others are only copied.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared reference to a segment only reads.
unsafe impl Sync for Segment {}

impl Segment {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The part of the segment in a range that lies within it.
    fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range lies within the segment.
        let start = unsafe { self.start.add(range.start) };
        Self { owner: self.owner.clone(), start, len: range.len(), exclusive: self.exclusive }
    }

    /// Whether another segment is the next part of the same memory.
    fn is_followed_by(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.owner, &next.owner)
            && self.exclusive == next.exclusive
            && self.start.as_ptr().wrapping_add(self.len) == next.start.as_ptr()
    }

    fn read(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.len);
        // SAFETY: within the segment; foreign memory may change meanwhile, which a plain copy of bytes survives.
        unsafe { std::ptr::copy(self.start.as_ptr().add(at), to.as_mut_ptr(), to.len()) }
    }

    fn write(&mut self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= self.len);
        // SAFETY: within the segment, which is borrowed mutably.
        unsafe { std::ptr::copy(from.as_ptr(), self.start.as_ptr().add(at), from.len()) }
    }

    fn fill(&mut self, range: Range<usize>, byte: u8) {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the segment, which is borrowed mutably.
        unsafe { std::ptr::write_bytes(self.start.as_ptr().add(range.start), byte, range.len()) }
    }

    fn slice(&self) -> Option<&[u8]> {
        // SAFETY: exclusive bytes are initialized (allocated zeroed), and written only through `&mut Segment`.
        self.exclusive.then(|| unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }
}

pub(crate) type Segments = SmallVec<[Segment; 2]>;

/// Memory of a request, in order, as one stretch of bytes. The one owner of these bytes.
#[derive(Default)]
pub struct IoVector {
    segments: Segments,
    len: usize,
}

impl std::fmt::Debug for IoVector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoVector({} bytes in {} segments)", self.len, self.segments.len())
    }
}

impl IoVector {
    /// The alignment in memory of a vector of at least as many bytes; smaller ones are aligned to 512 bytes.
    pub const ALIGNMENT: usize = 4096;

    /// Zeroes in one segment.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let (region, zeroed) = Region::new(len);
        if !zeroed {
            // SAFETY: the region has at least `len` bytes, and nobody else sees them yet.
            unsafe { region.start().write_bytes(0, len) };
        }
        Self::in_region(region, len)
    }

    fn in_region(region: Region, len: usize) -> Self {
        let start = region.start();
        let segment = Segment { owner: Arc::new(region), start, len, exclusive: true };
        Self { segments: SmallVec::from_iter([segment]), len }
    }

    /// Memory to be filled, in one segment: what it holds at first may be anything, such as a former request's data. For
    /// large requests this is quicker than [`IoVector::zeroed`]. Whoever uses it must not show it to anybody before it
    /// has been filled.
    pub fn scratch(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        Self::in_region(Region::new(len).0, len)
    }

    /// A copy of the bytes, in one segment.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut this = Self::scratch(bytes.len());
        this.write(0, bytes);
        this
    }

    /// Memory that others see as well, such as a guest's RAM. It is never borrowed as a slice.
    ///
    /// # Safety
    /// `start` to `start + len` must lie in memory that `owner` keeps mapped (see [`MemoryOwner`]), and nobody may hold a
    /// Rust reference to it.
    pub unsafe fn foreign(owner: Arc<dyn MemoryOwner>, start: NonNull<u8>, len: usize) -> Self {
        let segment = Segment { owner, start, len, exclusive: false };
        Self { segments: SmallVec::from_iter([segment]), len }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `at` bytes and returns the rest.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len, "split beyond the end");
        let mut tail = Segments::new();
        let mut position = 0;
        let mut keep = self.segments.len();
        for (index, segment) in self.segments.iter_mut().enumerate() {
            let end = position + segment.len;
            if end > at {
                let cut = at.saturating_sub(position);
                tail.push(segment.part(cut..segment.len));
                segment.len = cut;
                keep = keep.min(if cut == 0 { index } else { index + 1 });
            }
            position = end;
        }
        self.segments.truncate(keep);
        let len = self.len - at;
        self.len = at;
        Self { segments: tail, len }
    }

    /// Puts more memory behind the end; what was split off here becomes one segment again.
    pub fn append(&mut self, tail: Self) {
        self.len += tail.len;
        for segment in tail.segments {
            match self.segments.last_mut() {
                Some(last) if last.is_followed_by(&segment) => last.len += segment.len,
                _ => self.segments.push(segment),
            }
        }
    }

    /// Takes all the memory out, as a read does for as long as the kernel writes into it.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The bytes, to read.
    pub fn view(&self) -> IoView<'_> {
        IoView { segments: self.segments.clone(), len: self.len, borrowed: PhantomData }
    }

    /// Copies bytes out.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        read_segments(&self.segments, self.len, at, to);
    }

    /// Copies bytes in.
    pub fn write(&mut self, at: usize, from: &[u8]) {
        assert!(at.checked_add(from.len()).is_some_and(|end| end <= self.len), "written beyond the end");
        let mut done = 0;
        for_parts(self.segments.iter_mut(), at..at + from.len(), |segment, part| {
            segment.write(part.start, &from[done..done + part.len()]);
            done += part.len();
        });
    }

    /// Copies another vector's bytes in.
    pub fn write_view(&mut self, at: usize, from: &IoView<'_>) {
        let mut done = at;
        for segment in &from.segments {
            match segment.slice() {
                Some(bytes) => self.write(done, bytes),
                None => {
                    let mut bytes = vec![0; segment.len];
                    segment.read(0, &mut bytes);
                    self.write(done, &bytes);
                }
            }
            done += segment.len;
        }
    }

    /// Sets a range of bytes.
    pub fn fill(&mut self, range: Range<usize>, byte: u8) {
        assert!(range.end <= self.len, "filled beyond the end");
        for_parts(self.segments.iter_mut(), range, |segment, part| segment.fill(part, byte));
    }

    /// All bytes as one slice, if they lie in one segment that nobody else sees.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.segments.as_slice() {
            [] => Some(&[]),
            [segment] => segment.slice(),
            _ => None,
        }
    }

    /// All bytes as one mutable slice, if they lie in one segment that nobody else sees.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        match self.segments.as_mut_slice() {
            [] => Some(&mut []),
            [segment] if segment.exclusive => {
                // SAFETY: exclusive, initialized, and borrowed mutably for the slice's life.
                Some(unsafe { std::slice::from_raw_parts_mut(segment.start.as_ptr(), segment.len) })
            }
            _ => None,
        }
    }

    /// Whether every segment starts at a multiple of `alignment` (a power of two) in memory, and all but the last are
    /// multiples of it in length.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        is_aligned(&self.segments, alignment)
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.view().to_vec()
    }

    /// What a system call takes. The addresses are good for as long as the vector (or, for what the kernel only reads,
    /// any share of its memory) lives.
    pub fn iovecs(&self) -> SmallVec<[libc::iovec; 2]> {
        iovecs(&self.segments)
    }
}

/// Bytes of a request that are only read, borrowed from their owner.
#[derive(Clone)]
pub struct IoView<'a> {
    segments: Segments,
    len: usize,
    borrowed: PhantomData<&'a IoVector>,
}

impl std::fmt::Debug for IoView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoView({} bytes in {} segments)", self.len, self.segments.len())
    }
}

impl<'a> From<&'a IoVector> for IoView<'a> {
    fn from(vector: &'a IoVector) -> Self {
        vector.view()
    }
}

impl<'a> IoView<'a> {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// These bytes and then others, as one stretch.
    pub fn followed_by(mut self, next: IoView<'a>) -> IoView<'a> {
        self.len += next.len;
        self.segments.extend(next.segments);
        self
    }

    /// A part of the bytes.
    pub fn slice(&self, range: Range<usize>) -> IoView<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "sliced beyond the end");
        let len = range.len();
        let mut segments = Segments::new();
        for_parts(self.segments.iter(), range, |segment, part| segments.push(segment.part(part)));
        IoView { segments, len, borrowed: PhantomData }
    }

    /// Copies bytes out.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        read_segments(&self.segments, self.len, at, to);
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// All bytes as one slice, if they lie in one segment that nobody else sees.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.segments.as_slice() {
            [] => Some(&[]),
            [segment] => segment.slice(),
            _ => None,
        }
    }

    /// Whether every segment starts at a multiple of `alignment` (a power of two) in memory, and all but the last are
    /// multiples of it in length.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        is_aligned(&self.segments, alignment)
    }

    /// All bytes as one slice: borrowed where they lie together, else copied.
    pub fn contiguous(&self) -> std::borrow::Cow<'_, [u8]> {
        match self.as_slice() {
            Some(bytes) => std::borrow::Cow::Borrowed(bytes),
            None => std::borrow::Cow::Owned(self.to_vec()),
        }
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.segments.iter().all(|segment| match segment.slice() {
            Some(bytes) => is_zero(bytes),
            None => {
                let mut bytes = vec![0; segment.len];
                segment.read(0, &mut bytes);
                is_zero(&bytes)
            }
        })
    }

    /// A share of the memory that keeps it mapped while the kernel reads it, even if the request is given up.
    pub fn keep_alive(&self) -> impl Send + Sync + 'static + use<> {
        self.segments.clone()
    }

    pub(crate) fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// What a system call takes; good for as long as the borrow or [`IoView::keep_alive`] lasts.
    pub fn iovecs(&self) -> SmallVec<[libc::iovec; 2]> {
        iovecs(&self.segments)
    }
}

pub(crate) fn iovecs(segments: &Segments) -> SmallVec<[libc::iovec; 2]> {
    segments.iter().map(|s| libc::iovec { iov_base: s.start.as_ptr().cast(), iov_len: s.len }).collect()
}

fn is_aligned(segments: &Segments, alignment: usize) -> bool {
    let misses = |value: usize| value & (alignment - 1) != 0;
    let last = segments.len().saturating_sub(1);
    !segments.iter().enumerate().any(|(i, s)| misses(s.start.as_ptr().addr()) || (i < last && misses(s.len)))
}

fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bytes are a valid u128.
    let (head, middle, tail) = unsafe { bytes.align_to::<u128>() };
    let zero = |bytes: &[u8]| bytes.iter().all(|&b| b == 0);
    // Chunks let the compiler use wide vectors, and still stop early.
    zero(head) && zero(tail) && middle.chunks(16).all(|chunk| chunk.iter().fold(0, |all, &v| all | v) == 0)
}

fn read_segments(segments: &Segments, len: usize, at: usize, to: &mut [u8]) {
    assert!(at.checked_add(to.len()).is_some_and(|end| end <= len), "read beyond the end");
    let mut done = 0;
    for_parts(segments.iter(), at..at + to.len(), |segment, part| {
        let end = done + part.len();
        segment.read(part.start, &mut to[done..end]);
        done = end;
    });
}

/// Calls `visit` with each segment that has bytes in the range, and which of its bytes they are.
fn for_parts<S: std::borrow::Borrow<Segment>>(
    segments: impl Iterator<Item = S>,
    range: Range<usize>,
    mut visit: impl FnMut(S, Range<usize>),
) {
    let mut position = 0;
    for segment in segments {
        let len = segment.borrow().len;
        let from = range.start.max(position);
        let to = range.end.min(position + len);
        if from < to {
            visit(segment, from - position..to - position);
        }
        position += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(len: usize) -> IoVector {
        IoVector::from_slice(&(0..len).map(|i| i as u8).collect::<Vec<_>>())
    }

    #[test]
    fn splits_join_to_one_segment_again() {
        let mut v = counting(100);
        let mut tail = v.split_off(40);
        let last = tail.split_off(30);
        assert_eq!((v.len(), tail.len(), last.len()), (40, 30, 30));
        tail.fill(0..30, 0xff);
        v.append(tail);
        v.append(last);
        let bytes = v.as_slice().expect("one segment");
        assert_eq!((bytes[39], bytes[40], bytes[69], bytes[70]), (39, 0xff, 0xff, 70));
    }

    #[test]
    fn scattered_bytes_read_as_one_stretch() {
        let mut v = counting(10);
        v.append(counting(10));
        assert_eq!(v.as_slice(), None);
        let mut middle = [0; 6];
        v.read(7, &mut middle);
        assert_eq!(middle, [7, 8, 9, 0, 1, 2]);
        assert_eq!(v.view().slice(9..12).to_vec(), [9, 0, 1]);
        v.write(8, &[1, 2, 3, 4]);
        assert_eq!(v.to_vec()[7..13], [7, 1, 2, 3, 4, 2]);
        let tail = v.split_off(10);
        assert_eq!((v.to_vec()[9], tail.to_vec()[0]), (2, 3));
    }

    #[test]
    fn zeroes_are_found_wherever_the_one_byte_is() {
        assert!(IoVector::zeroed(0).view().is_zero());
        for len in [1, 15, 512, 4097] {
            let mut v = IoVector::zeroed(len);
            assert!(v.view().is_zero());
            for at in [0, len / 2, len - 1] {
                v.write(at, &[1]);
                assert!(!v.view().is_zero(), "{at} of {len}");
                v.write(at, &[0]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond the end")]
    fn reading_beyond_the_end_is_caught() {
        counting(4).read(2, &mut [0; 3]);
    }
}
