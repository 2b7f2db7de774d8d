//! Advice about settings that are valid and seldom wanted.

use super::Config;
use super::check::is_on_this_machine;

/// Pairs of a key and a sentence about its value, for operators.
pub fn advice(config: &Config) -> Vec<(&'static str, String)> {
    let mut advice = Vec::new();
    let listen = &config.listen;
    if listen.admin.ip().is_unspecified() {
        let text = format!(
            "{} answers on every network of this machine, and neither /metrics nor /admin asks for a token. \
             Give it a loopback or a private address",
            listen.admin
        );
        advice.push(("listen.admin", text));
    }
    if !listen.public.ip().is_loopback() && listen.trusted_proxies.is_empty() {
        let text = "it is empty: behind a balancer all clients count as one address, and share the limits of \
                    one. Name the balancer's addresses, unless clients connect directly";
        advice.push(("listen.trusted_proxies", text.to_owned()));
    }
    let redis = &config.redis.url;
    if !redis.starts_with("rediss://") && !is_on_this_machine(redis) {
        let text = "events and presence travel to another machine unencrypted. Use rediss://";
        advice.push(("redis.url", text.to_owned()));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::parse(include_str!("../../config/roomgate.toml")).unwrap();
        config.listen.public = "127.0.0.1:8080".parse().unwrap();
        change(&mut config);
        advice(&config).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn loopback_alone_needs_no_advice() {
        assert_eq!(keys(|_| ()), [""; 0]);
        for url in ["redis://localhost", "redis://[::1]:6379/0", "rediss://cache.example:6379"] {
            assert_eq!(keys(|config| config.redis.url = url.to_owned()), [""; 0], "{url}");
        }
    }

    #[test]
    fn each_exposed_part_is_named() {
        for admin in ["0.0.0.0:9090", "[::]:9090"] {
            assert_eq!(keys(|config| config.listen.admin = admin.parse().unwrap()), ["listen.admin"]);
        }
        let everywhere = |config: &mut Config| config.listen.public = "0.0.0.0:8080".parse().unwrap();
        assert_eq!(keys(everywhere), ["listen.trusted_proxies"]);
        for url in ["redis://cache:6379", "redis://10.0.0.7", "redis://localhost.example:1"] {
            assert_eq!(keys(|config| config.redis.url = url.to_owned()), ["redis.url"], "{url}");
        }
    }
}
