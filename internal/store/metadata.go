package store

import (
	"encoding/json"

	"mqlift/internal/rocketmq"
)

// decodeMetadata reads one of config/*.json, as fastjson writes it.
func decodeMetadata(data []byte, v any) error {
	var strict json.RawMessage
	if err := rocketmq.DecodeJSON(data, &strict); err != nil {
		return err
	}
	return json.Unmarshal(strict, v)
}
