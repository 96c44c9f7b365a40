//! Instances into NUMA nodes: which cores of a host an instance gets, so that all of one instance's are of one node.

/// Whether instances of these sizes fit; an instance that has its node already keeps it.
pub fn fits(cores: &[u32], sizes: impl Iterator<Item = (u32, Option<usize>)>) -> bool {
    let mut free = cores.to_vec();
    let mut loose = Vec::new();
    for (size, numa) in sizes {
        match numa {
            Some(numa) if free[numa] >= size => free[numa] -= size,
            Some(_) => return false,
            None => loose.push(size),
        }
    }
    if loose.iter().sum::<u32>() > free.iter().sum() {
        return false;
    }
    loose.iter().all(|&size| size == 1)
        || place(&mut free, &mut loose.into_iter().enumerate().collect(), &mut Vec::new())
}

/// The NUMA node of every instance, if they fit.
pub fn nodes(cores: &[u32], sizes: &[(u32, Option<usize>)]) -> Option<Vec<usize>> {
    let mut free = cores.to_vec();
    let mut found = vec![0; sizes.len()];
    let mut loose = Vec::new();
    for (number, &(size, numa)) in sizes.iter().enumerate() {
        match numa {
            Some(numa) => {
                free[numa] = free[numa].checked_sub(size)?;
                found[number] = numa;
            }
            None => loose.push((number, size)),
        }
    }
    let mut placed = Vec::new();
    place(&mut free, &mut loose, &mut placed).then(|| {
        for (number, numa) in placed {
            found[number] = numa;
        }
        found
    })
}

/// Largest first, every node that is different; nodes with the same room are the same.
fn place(free: &mut [u32], loose: &mut Vec<(usize, u32)>, placed: &mut Vec<(usize, usize)>) -> bool {
    let largest = loose.iter().enumerate().max_by_key(|(at, item)| (item.1, std::cmp::Reverse(*at))).map(|(at, _)| at);
    let Some(at) = largest else { return true };
    let (number, size) = loose.remove(at);
    for numa in 0..free.len() {
        if free[numa] < size || free[..numa].contains(&free[numa]) {
            continue;
        }
        free[numa] -= size;
        placed.push((number, numa));
        if place(free, loose, placed) {
            return true;
        }
        placed.pop();
        free[numa] += size;
    }
    loose.insert(at, (number, size));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    // Four free cores on two nodes do not hold an instance of three: counting cores per host would say they do.
    #[test]
    fn an_instance_does_not_span_nodes() {
        assert!(fits(&[2, 2], [(2, None), (2, None)].into_iter()));
        assert!(!fits(&[2, 2], [(3, None)].into_iter()));
        assert!(!fits(&[3, 1], [(1, Some(0)), (3, None)].into_iter()));
        assert_eq!(nodes(&[1, 3], &[(1, None), (3, None)]), Some(vec![0, 1]));
    }

    // Largest first alone would put 3 with 3 and find no place for 2, 2, 2.
    #[test]
    fn it_goes_back_when_largest_first_fails() {
        assert!(fits(&[6, 6], [(3, None), (3, None), (2, None), (2, None), (2, None)].into_iter()));
        assert!(!fits(&[5, 7], [(3, None), (3, None), (3, None), (3, None)].into_iter()));
    }
}
