package ratelimit

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the networks of the proxies whose X-Forwarded-For is believed. The zero value believes none.
type Proxies []netip.Prefix

// ParseProxies reads addresses and CIDRs, such as 10.0.0.0/8 or 2001:db8::7.
func ParseProxies(list []string) (Proxies, error) {
	var out Proxies
	for _, text := range list {
		text = strings.TrimSpace(text)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("%q is not a network of proxies: expected an address or a CIDR, such as 10.0.0.0/8", text)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Addr().Is4In6() {
			if prefix.Bits() < 96 {
				return nil, fmt.Errorf("%q is not a network of proxies: an IPv4 address in IPv6 form needs a prefix of 96 bits or more", text)
			}
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

func (p Proxies) trust(addr netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// Client returns the address of the client that a request comes from: IPv4 as such, without a zone. It is that of the
// connection, unless that is a trusted proxy: then each trusted proxy is believed in what it has appended to X-Forwarded-For,
// read from the right, and the first address that is not one of theirs is the client's. An entry that is no address ends that: what
// stands before it was not written by a trusted proxy, and the proxy that passed it on counts as the client. Forwarded, X-Real-IP and
// the like are not read. The zero Addr is returned for a connection without an address.
func (p Proxies) Client(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client := plain(peer.Addr())
	if !p.trust(client) {
		return client
	}
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(entries) - 1; i >= 0 && p.trust(client); i-- {
		addr, ok := forwarded(entries[i])
		if !ok {
			break
		}
		client = addr
	}
	return client
}

// plain is an address in the one form in which it is counted.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// forwarded reads an entry of X-Forwarded-For: an address, with a port or without one.
func forwarded(entry string) (netip.Addr, bool) {
	entry = strings.TrimSpace(entry)
	if addr, err := netip.ParseAddr(entry); err == nil {
		return plain(addr), true
	}
	if pair, err := netip.ParseAddrPort(entry); err == nil {
		return plain(pair.Addr()), true
	}
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if addr, err := netip.ParseAddr(inner); err == nil && addr.Is6() {
				return plain(addr), true
			}
		}
	}
	return netip.Addr{}, false
}
