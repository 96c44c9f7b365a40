use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Of the word of ports: the addresses are IPv6.
const IS_V6: u64 = 1 << 31;

impl Lines {
    /// Where every key is, after a look at the invariants: each in one of its lines or in the stash, strays counted.
    fn positions(&self) -> HashMap<u32, usize> {
        let mut positions = HashMap::new();
        let mut strays = vec![0; self.lines.len()];
        for at in 0..self.lines.len() {
            for slot in 0..SLOTS {
                let Some(position) = self.lines[at].position(slot) else { continue };
                let probe = self.key_in(at, slot);
                assert!(
                    at == probe.home as usize || at == self.other(&probe),
                    "position {position} is in a foreign line"
                );
                strays[probe.home as usize] += usize::from(at != probe.home as usize);
                assert_eq!(positions.insert(position, at), None, "position {position} is in two places");
            }
        }
        for &(image, position) in &self.stash {
            strays[self.probe_later(image).home as usize] += 1;
            assert_eq!(positions.insert(position, usize::MAX), None, "position {position} is in two places");
        }
        for (line, count) in self.lines.iter().zip(strays) {
            let counted = usize::from(line.strays());
            assert!(
                counted == count || counted == usize::from(STRAYS_MAX),
                "{counted} strays are counted, {count} are there"
            );
        }
        positions
    }

    fn strays(&self) -> usize {
        self.lines.iter().map(|line| usize::from(line.strays())).sum()
    }
}

fn image(number: u32) -> KeyImage {
    KeyImage {
        addresses: u64::from(number) << 7,
        ports: u64::from(number % 5) | (u64::from(number.is_multiple_of(4)) * IS_V6),
        rest: (number % 3) as u16,
    }
}

/// Images that all have the same two lines, found with the seed's help.
fn colliding(lines: &Lines, count: usize) -> Vec<KeyImage> {
    let pair = |image: &KeyImage| {
        let probe = lines.probe_later(*image);
        let (home, other) = (probe.home as usize, lines.other(&probe));
        (home.min(other), home.max(other))
    };
    let first = pair(&image(0));
    (0..).map(image).filter(|image| pair(image) == first).take(count).collect()
}

/// Breaks if a key that finds no slot is lost, or does not come back from the stash when there is one again.
#[test]
fn the_stash_takes_what_has_no_slot_and_gives_it_back() {
    let mut lines = Lines::new(64);
    let images = colliding(&lines, 40);
    for (position, image) in images.iter().enumerate() {
        lines.insert(*image, position as u32);
    }
    assert_eq!(lines.stash.len(), 40 - 2 * SLOTS);
    assert_eq!(lines.positions().len(), 40);
    for (position, image) in images.iter().enumerate() {
        assert_eq!(lines.find(*image, |_| true), Some(position as u32));
        lines.remove(image, position as u32);
        assert_eq!(lines.find(*image, |_| true), None);
        assert_eq!(lines.stash.len(), (40 - 2 * SLOTS).saturating_sub(position + 1));
        assert_eq!(lines.positions().len(), 39 - position);
    }
}

/// A full index needs no stash, and few of its keys are strays.
#[test]
fn a_full_index_is_mostly_at_home() {
    let flows = 20_000;
    for _ in 0..8 {
        let mut lines = Lines::new(flows as usize);
        (0..flows).for_each(|number| lines.insert(image(number), number));
        assert_eq!(lines.stash.len(), 0);
        assert_eq!(lines.positions().len(), flows as usize);
        assert!(lines.strays() < flows as usize / 30, "{} strays", lines.strays());
    }
}

/// Fills every slot but a few: far more than ever happens, so that chains of moves are long. Breaks if one loses a key.
#[test]
fn chains_of_moves_lose_nothing() {
    let mut lines = Lines::new(4_000);
    let keys = (lines.lines.len() * SLOTS) as u32 - 100;
    (0..keys).for_each(|number| lines.insert(image(number), number));
    assert_eq!(lines.positions().len(), keys as usize);
    assert!((0..keys).all(|number| lines.find(image(number), |_| true) == Some(number)));
    (0..keys).for_each(|number| lines.remove(&image(number), number));
    assert_eq!((lines.positions().len(), lines.stash.len()), (0, 0));
}

/// The image of nothing but zeros looks like a free slot, and a free slot looks like the key that left it.
#[test]
fn a_free_slot_is_nobody() {
    let mut lines = Lines::new(64);
    let zeros = KeyImage { addresses: 0, ports: 0, rest: 0 };
    assert_eq!(lines.find(zeros, |_| true), None);
    lines.insert(zeros, 7);
    assert_eq!(lines.find(zeros, |_| true), Some(7));
    assert_eq!(lines.find(KeyImage { ports: IS_V6, ..zeros }, |_| true), None);
    lines.remove(&zeros, 7);
    assert_eq!(lines.find(zeros, |_| true), None);
}

/// Equal tags say which slot to look at, not that it is the one. Breaks if addresses, ports or the family are not compared: the
/// other keys here have the tag of the one in the table, and half of the time its home.
#[test]
fn a_key_of_the_same_tag_is_another_key() {
    for _ in 0..64 {
        let mut lines = Lines::new(1);
        let there = image(77);
        lines.insert(there, 0);
        let tag = lines.probe_later(there).tags as u16;
        let alike = |addresses, ports| KeyImage { addresses, ports, rest: tag ^ lines.seed.mask(addresses, ports) };
        assert_eq!(alike(there.addresses, there.ports), there);
        let others = [
            alike(there.addresses ^ 1, there.ports),
            alike(there.addresses, there.ports ^ 1),
            alike(there.addresses, there.ports ^ IS_V6),
        ];
        for other in others {
            assert_eq!(lines.probe_later(other).tags as u16, tag);
            assert_eq!(lines.find(other, |_| true), None, "{other:?}");
        }
        assert_eq!(lines.find(there, |_| true), Some(0));
    }
}

/// The last position that a line can name, and the first.
#[test]
fn positions_of_24_bits_come_back() {
    let mut lines = Lines::new(64);
    for position in [0, 0xffff, 0x1_0000, POSITIONS_MAX as u32 - 1] {
        lines.insert(image(position), position);
        assert_eq!(lines.find(image(position), |_| true), Some(position));
    }
}

/// Several IPv6 keys may have one image; the caller tells them apart.
#[test]
fn one_image_may_have_several_positions() {
    let mut lines = Lines::with_seed(64, Seed::of_zeros());
    let image = KeyImage { ports: IS_V6, ..image(1) };
    (0..9).for_each(|position| lines.insert(image, position));
    assert!((0..9).all(|wanted| lines.find(image, |position| position == wanted) == Some(wanted)));
    lines.remove(&image, 4);
    assert_eq!(lines.find(image, |position| position == 4), None);
    assert_eq!(lines.positions().len(), 8);
}

proptest! {
    /// Breaks if chains, strays and the stash do not agree, whatever comes and goes; half of the keys share two lines.
    #[test]
    fn it_behaves_like_a_map(steps in prop::collection::vec((0usize..48, any::<bool>()), 1..300)) {
        let mut lines = Lines::new(32);
        let images: Vec<KeyImage> = colliding(&lines, 24).into_iter().chain((1_000_000..).map(image).take(24)).collect();
        let mut model = HashMap::new();
        for (at, add) in steps {
            let image = images[at];
            if add && model.insert(at as u32, ()).is_none() {
                lines.insert(image, at as u32);
            } else if !add && model.remove(&(at as u32)).is_some() {
                lines.remove(&image, at as u32);
            }
            let found = lines.find(image, |position| position == at as u32);
            prop_assert_eq!(found, model.contains_key(&(at as u32)).then_some(at as u32));
            prop_assert_eq!(lines.positions().len(), model.len());
        }
    }
}
