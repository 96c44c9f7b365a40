//! The list `instances` of a tenant: running copies of its functions, by number, place and binding.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::hosts::{Known, cpu};
use super::tenants::{is_missing_key, lookup_nf, note_nf_error};
use super::tree::{Section, Value, suggest};
use super::{Instance, Nf, Problems, Tenant};

/// Copies that one entry can stand for.
const MAX_COUNT: i64 = 256;

/// An entry that names the chain that its instance serves.
pub(super) struct Served<'a> {
    instance: usize,
    chain: Value<'a>,
}

/// An entry, read but not yet numbered.
struct Entry<'a> {
    instance: Instance,
    numbered: bool,
    serves: Option<Value<'a>>,
}

/// Reads the list into the tenant; what its instances serve is looked up once the chains are read.
pub(super) fn read<'a>(
    problems: &mut Problems,
    items: &[Value<'a>],
    tenant: &mut Tenant,
    hosts: &Known<'_>,
) -> Vec<Served<'a>> {
    let mut entries = Vec::new();
    for item in items {
        entries.extend(entry(problems, item, tenant, hosts));
    }
    number(problems, &mut entries, &tenant.nfs, &tenant.name);
    let mut served = Vec::new();
    for entry in entries {
        let instance = tenant.instances.len();
        served.extend(entry.serves.map(|chain| Served { instance, chain }));
        tenant.instances.push(entry.instance);
    }
    served
}

/// Looks up which chain an instance serves.
pub(super) fn bind(problems: &mut Problems, served: Vec<Served<'_>>, tenant: &mut Tenant) {
    for Served { instance, chain } in served {
        let Some(name) = chain.text(problems, "the name of one of the tenant's chains") else { continue };
        let Some(index) = tenant.chains.iter().position(|chain| chain.name == name) else {
            let names = tenant.chains.iter().map(|chain| chain.name.as_str());
            let text = format!("tenant `{}` has no chain `{name}`{}", tenant.name, suggest(&name, names));
            chain.note(problems, text);
            continue;
        };
        let kind = tenant.instances[instance].nf;
        let nf = &tenant.nfs[kind];
        if !tenant.chains[index].through.contains(&kind) {
            chain.note(problems, format!("chain `{name}` does not go through `{}`; name one that does", nf.name));
        } else if !nf.mangles && !nf.detect {
            let text = format!("`{}` is no mangler, so its instances serve every chain; remove `serves`", nf.name);
            chain.note(problems, text);
        }
        tenant.instances[instance].serves = Some(index);
    }
}

/// Gives numbers to the entries that have none: the lowest free ones, in order.
fn number(problems: &mut Problems, entries: &mut [Entry<'_>], nfs: &[Nf], tenant: &str) {
    let mut taken: HashMap<usize, BTreeSet<u32>> = HashMap::new();
    for Entry { instance, .. } in entries.iter().filter(|entry| entry.numbered) {
        if !taken.entry(instance.nf).or_default().insert(instance.number) {
            let name = format!("{}/{}", nfs[instance.nf].name, instance.number);
            let text = format!("`{name}` stands in the list twice; give each copy its own number");
            problems.note(instance.line, format!("tenants.{tenant}.instances ({name})"), text);
        }
    }
    let mut next: HashMap<usize, u32> = HashMap::new();
    for Entry { instance, numbered, .. } in entries {
        if !*numbered {
            let taken = taken.entry(instance.nf).or_default();
            let number = next.entry(instance.nf).or_insert(1);
            while taken.contains(number) {
                *number += 1;
            }
            instance.number = *number;
            *number += 1;
        }
        instance.name = format!("{}/{}", nfs[instance.nf].name, instance.number);
    }
}

fn entry<'a>(problems: &mut Problems, value: &Value<'a>, tenant: &Tenant, hosts: &Known<'_>) -> Vec<Entry<'a>> {
    let known = ["nf", "host", "cpu", "count", "number", "serves", "drain", "config"];
    let section = value.section(problems, "a table such as `{nf: edge, host: host1, cpu: 1}`", &known);
    let nf = section.need(problems, "nf", "name the function that it is a copy of");
    let nf = nf.and_then(|value| lookup_nf(problems, value, tenant));
    let host = section.get("host").map(|value| hosts.lookup(problems, value));
    let cpu = section.get("cpu").map(|value| cpu(problems, value));
    if let (Some(_), None) = (&cpu, &host) {
        section.at.note(problems, "a `cpu` is one of a host; name the `host` too, or neither");
    }
    let count: Option<usize> =
        section.get("count").and_then(|value| value.integer(problems, 0..=MAX_COUNT, "how many copies"));
    let number: Option<u32> =
        section.get("number").and_then(|value| value.integer(problems, 1..=9_999, "the copy's number"));
    for (key, given) in [("cpu", cpu.is_some()), ("number", number.is_some())] {
        if given && count.is_some_and(|count| count > 1) {
            section.at.note(problems, format!("several copies can't have one `{key}`; remove `{key}` or `count`"));
        }
    }
    let drain = section.get("drain").and_then(|value| value.flag(problems)).unwrap_or(false);
    let Some(nf) = nf else { return Vec::new() };
    if matches!(host, Some(None)) || matches!(cpu, Some(None)) {
        return Vec::new();
    }
    let kind = &tenant.nfs[nf];
    let config = configured(problems, &section, kind, &tenant.name);
    let instance = Instance {
        name: String::new(),
        number: number.unwrap_or(0),
        line: value.line,
        nf,
        host: host.flatten(),
        cpu: cpu.flatten().filter(|_| count.is_none_or(|count| count <= 1)),
        serves: None,
        drain,
        pool: pool_of(kind, &config),
        config,
    };
    let serves = section.get("serves").cloned();
    let copy = |_| Entry { instance: instance.clone(), numbered: number.is_some(), serves: serves.clone() };
    (0..count.unwrap_or(1)).map(copy).collect()
}

/// The function's configuration with the instance's own keys in place of the function's.
pub(super) fn merged(shared: &Json, own: Option<Json>) -> Json {
    let mut config = shared.clone();
    if let Some(Json::Object(own)) = own {
        match &mut config {
            Json::Object(shared) => shared.extend(own),
            shared => *shared = own.into(),
        }
    }
    config
}

fn configured(problems: &mut Problems, section: &Section<'_>, kind: &Nf, tenant: &str) -> Json {
    let own = section.get("config");
    let config = merged(&kind.config, own.map(Value::json));
    if !kind.function.is_empty()
        && let Err(error) = nf::validate(&kind.function, &config)
        && (own.is_some() || is_missing_key(&error))
    {
        match own {
            Some(own) => note_nf_error(problems, own, &error),
            None => {
                let key = format!("tenants.{tenant}.nfs.{}.{}", kind.name, error.path);
                problems.note(kind.line, key, error.problem);
            }
        }
    }
    config
}

/// The addresses that a mangler rewrites sources to, as its configuration says them: prefixes or single addresses.
pub(super) fn pool_of(kind: &Nf, config: &Json) -> Vec<IpNet> {
    if !kind.mangles && !kind.detect {
        return Vec::new();
    }
    let read = |text: &Json| {
        let text = text.as_str()?;
        text.parse::<IpNet>().map(|net| net.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
    };
    match config.get("pool") {
        Some(Json::Array(list)) => list.iter().filter_map(read).collect(),
        Some(single) => read(single).into_iter().collect(),
        None => Vec::new(),
    }
}
