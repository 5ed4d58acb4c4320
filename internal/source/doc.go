// Package source gets the bytes of a picture from where a producer says it is: an https or http URL, an S3 object, a data URL,
// or a file below an allowed folder. Picture URLs come from people outside, so the package is also the wall between them and the
// network that the worker runs in.
//
// Start with [Fetcher]: make one with [New] for the whole process, call [Fetcher.Fetch] from any number of goroutines, and branch
// on the [Kind] of the [Error] it returns.
//
// What it promises:
//
//   - No more than Config.MaxBytes are ever read or returned, whatever the server announces. A Content-Length over the cap is
//     refused before the body is read, and memory grows with what has arrived, not with what was announced.
//   - Connecting, waiting for the header and receiving the whole body each have a time-out of their own; a server that drips one
//     byte at a time is cut off by the last of them. With the most redirects (5) and the default time-outs a fetch ends within
//     150 s: 6 times connect, TLS handshake and header, and one body.
//   - Addresses that are not public (loopback, private, link-local with the cloud metadata services, CGNAT, multicast, and all of
//     them dressed as IPv6) are refused. This is checked on the address that is dialled, after name resolution and for each
//     redirect, so neither a name that resolves to a private address nor an odd spelling of one gets through. Config.Allow exempts.
//   - No proxy and no environment variable takes part, and picture servers get no cookie and no Referer; credentials in a URL go to
//     the origin they were written for and to no other.
//   - No error text contains a URL's query, fragment or userinfo, or the body of a data URL.
//
// What it does not do: retry (the worker owns retries, see [Transient] and [Error.RetryAfter]), cache, look at what the bytes
// are, or restrict which bucket of the operator's S3 account a producer may name. It cannot know which public addresses lead back
// inside: the site's own ones, or a NAT64 prefix that the site chose within the public range. The S3 endpoint is set by the operator and
// exempt from the address rules.
package source
