net.ipv6 = false
net.listen("{address}", 53, { kind = "dns" })
net.listen("{address}", 853, { kind = "tls" })
net.listen("{address}", 443, { kind = "doh2" })
net.tls("{cert}", "{key}")
-- No validation: the others do none either.
trust_anchors.remove(".")
cache.open(300 * MB, "lmdb://{folder}/cache")
modules.load("policy")
policy.add(policy.all(policy.TLS_FORWARD({
  { "{upstream}@853", hostname = "{name}", ca_file = "{ca}" },
})))
