package message

import (
	"encoding/binary"
	"net/netip"
)

// Append writes m to b as a broker stores it, for fakes of brokers and logs. Size, BodyCRC, Magic
// (from the topic's length, when zero) and the IPv6 bits of SysFlag follow from the other fields.
// A topic longer than 32767 bytes or properties longer than that cannot be stored: Append panics.
func Append(b []byte, m Message) []byte {
	properties := PropertiesString(m.Properties)
	if len(m.Topic) > 32767 || len(properties) > 32767 {
		panic("message: topic or properties longer than the format can hold")
	}
	magic := m.Magic
	if magic == 0 {
		magic = Magic
	}
	if len(m.Topic) > 127 {
		magic = MagicV2
	}
	sysFlag := uint32(m.SysFlag) &^ (FlagBornHostV6 | FlagStoreHostV6)
	if m.BornHost.Addr().Is6() {
		sysFlag |= FlagBornHostV6
	}
	if m.StoreHost.Addr().Is6() {
		sysFlag |= FlagStoreHostV6
	}

	start := len(b)
	e := binary.BigEndian
	b = e.AppendUint32(b, 0) // the size, below
	b = e.AppendUint32(b, magic)
	b = e.AppendUint32(b, BodyCRC(m.Body))
	b = e.AppendUint32(b, uint32(m.QueueID))
	b = e.AppendUint32(b, uint32(m.Flag))
	b = e.AppendUint64(b, uint64(m.QueueOffset))
	b = e.AppendUint64(b, uint64(m.PhysicalOffset))
	b = e.AppendUint32(b, sysFlag)
	b = e.AppendUint64(b, uint64(m.Born.UnixMilli()))
	b = appendHost(b, m.BornHost)
	b = e.AppendUint64(b, uint64(m.Stored.UnixMilli()))
	b = appendHost(b, m.StoreHost)
	b = e.AppendUint32(b, uint32(m.ReconsumeTimes))
	b = e.AppendUint64(b, uint64(m.PreparedTransactionOffset))
	b = e.AppendUint32(b, uint32(len(m.Body)))
	b = append(b, m.Body...)
	if magic == MagicV2 {
		b = e.AppendUint16(b, uint16(len(m.Topic)))
	} else {
		b = append(b, byte(len(m.Topic)))
	}
	b = append(b, m.Topic...)
	b = e.AppendUint16(b, uint16(len(properties)))
	b = append(b, properties...)
	e.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendHost(b []byte, h netip.AddrPort) []byte {
	addr := h.Addr()
	if !addr.IsValid() {
		addr = netip.AddrFrom4([4]byte{})
	}
	b = append(b, addr.AsSlice()...)
	return binary.BigEndian.AppendUint32(b, uint32(h.Port()))
}
