include $(sort $(wildcard $(BR2_EXTERNAL_QDROP_PATH)/package/*/*.mk))
