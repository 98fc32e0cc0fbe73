setLocal("{address}:53")
addTLSLocal("{address}:853", "{cert}", "{key}", { provider = "openssl" })
addDOHLocal("{address}:443", "{cert}", "{key}", "{path}")
setACL({ "127.0.0.0/8" })
setMaxTCPClientThreads(1)
setSecurityPollSuffix("")
newServer({
  address = "{upstream}:853",
  tls = "openssl",
  subjectName = "{name}",
  caStore = "{ca}",
  validateCertificates = true,
  checkName = "check.{zone}.",
  checkInterval = 5,
})
getPool(""):setCache(newPacketCache(300000, { maxTTL = 86400, maxNegativeTTL = 86400 }))
